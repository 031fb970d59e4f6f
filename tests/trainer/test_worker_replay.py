"""General examples mixed into a job: how many, from where, alone and beside others, and the same after a crash."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock import files, publish, tables
from rootstock.errors import JobFailure, LeaseLost
from rootstock.records import JobRecord, JobStatus
from rootstock.sweep import Sweep
from tests.rootstock import making
from tests.trainer.harness import Deployment, conversation, talk
from tests.trainer.test_worker_together import final_weights, work
from tests.trainer.test_worker_wishes import run_until
from trainer import replay
from trainer.base import Base
from trainer.data import epoch_order
from trainer.worker.job import run_job

GENERAL = [conversation(n, "who was that?") for n in range(30)]


def wish(deployment: Deployment, share: float = 0.2, lines: list[bytes] | None = None) -> dict[str, Any]:
    file = deployment.upload(b"".join(lines)) if lines else None
    return {"replay": {"share": share, "file": file and file.id, "object": file and file.object_key}}


def train(deployment: Deployment, base: Base, **options: Any) -> JobRecord:
    job = deployment.queue(**options)
    run_job(deployment.place(base), deployment.claim())
    return deployment.job(job.id)


def test_general_examples_are_a_share_of_what_is_trained_on_and_the_job_says_so(
    deployment: Deployment, base: Base
) -> None:
    plain = train(deployment, base)
    job = train(deployment, base, extras=wish(deployment, 0.5, GENERAL))
    assert job.status is plain.status is JobStatus.FINALIZING
    shown = (job.rootstock or {})["replay"]
    source = f"from the file {shown['file']}"
    assert shown["examples"] == 10  # as many as the job has of its own
    # Two epochs, of which neither has an example of the other.
    assert job.trained_tokens == pytest.approx((plain.trained_tokens or 0) + 2 * shown["tokens"], abs=2)
    assert (plain.total_steps, job.total_steps) == (6, 10)
    said = [event.message for event in deployment.events(job.id)]
    assert (
        f"Replay: each epoch mixes 10 other general examples (about {shown['tokens']} tokens) {source} "
        "into the 10 of the job"
    ) in said


def test_without_a_file_it_is_the_set_that_ships(deployment: Deployment, base: Base) -> None:
    job = train(deployment, base, extras=wish(deployment))
    assert job.status is JobStatus.FINALIZING
    assert (job.rootstock or {})["replay"]["examples"] == 2
    assert any("from the set that comes with Rootstock" in event.message for event in deployment.events(job.id))


def test_a_job_that_goes_on_after_a_crash_has_the_same_mix(
    deployment: Deployment, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extras = wish(deployment, 0.5, GENERAL)
    whole = train(deployment, base, extras=extras)
    job = deployment.queue(extras=extras)
    run_until(deployment, base, job, 3, "pause", "resume")
    run_job(deployment.place(base), deployment.claim())  # from the state of step 3
    assert deployment.steps(job.id) == list(range(1, 11))
    assert final_weights(deployment, job, tmp_path / "b") == final_weights(deployment, whole, tmp_path / "a")
    died = deployment.queue(extras=extras)
    mixed = replay.mix

    def die(*arguments: Any) -> Any:
        raise LeaseLost("the worker died")

    monkeypatch.setattr(replay, "mix", die)
    run_job(deployment.place(base), first := deployment.claim())
    monkeypatch.setattr(replay, "mix", mixed)
    assert deployment.job(died.id).status is JobStatus.RUNNING
    expire(deployment, first)
    run_job(deployment.place(base), deployment.claim())
    assert final_weights(deployment, died, tmp_path / "c") == final_weights(deployment, whole, tmp_path / "d")
    assert sum(e.message.startswith("Replay: ") for e in deployment.events(died.id)) == 1


def expire(deployment: Deployment, job: JobRecord) -> None:
    making.expire(deployment.db, job.id)
    Sweep(deployment.db, deployment.store, SilentBell(), deployment.settings).run_once()
    with deployment.db.transaction() as tx:  # as if the pause before the next attempt were over
        tx.execute(tables.jobs.update().where(tables.jobs.c.id == job.id).values(not_before=0.0))


class SilentBell:
    """Nobody hears it; the tests claim by themselves."""

    def ring(self, queue_name: str, row_id: str, rings: int) -> bool:
        return True


def test_jobs_that_share_a_pass_have_each_its_own_mix(deployment: Deployment, base: Base) -> None:
    extras = [wish(deployment, 0.5, GENERAL), {}, wish(deployment, 0.2, GENERAL)]
    alone = [train(deployment, base, extras=one) for one in extras]
    shared = [deployment.queue(extras=one) for one in extras]
    work(deployment, base)
    for before, after in zip(alone, shared, strict=True):
        assert deployment.job(after.id).trained_tokens == before.trained_tokens
        losses = [
            [event.data["train_loss"] for event in deployment.events(job.id) if event.data] for job in (before, after)
        ]
        assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_a_deleted_file_serves_the_jobs_that_name_it_and_goes_when_they_have_ended(
    deployment: Deployment, base: Base
) -> None:
    extras = wish(deployment, 0.5, GENERAL)
    job = deployment.queue(extras=extras)
    with deployment.db.transaction() as tx:
        files.delete(tx, deployment.project, extras["replay"]["file"])
    sweep = Sweep(deployment.db, deployment.store, SilentBell(), deployment.settings)
    assert sweep.run_once()["purge_file"] == 0
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    with deployment.db.transaction() as tx:
        publish.succeed(tx, job.id)
    assert sweep.run_once()["purge_file"] == 1
    lost = deployment.queue(extras=extras)
    run_job(deployment.place(base), deployment.claim())
    error = deployment.job(lost.id).error or {}
    assert (error["code"], error["param"]) == ("invalid_replay_file", "rootstock.replay.file")


def test_as_many_are_tokenized_as_the_epochs_take_and_the_seed_says_which() -> None:
    lines = list(range(5, 12))
    for wanted in (1, 6, 7, 8, 50):
        taken = replay.choose(lines, wanted, seed=3)
        assert taken == replay.choose(lines, wanted, seed=3) and taken <= set(lines)
        assert len(taken) == min(wanted, 7)
    assert replay.choose(lines, 3, seed=3) != replay.choose(lines, 3, seed=4)


@given(st.integers(0, 9), st.integers(1, 12), st.integers(1, 20), st.integers(0, 5))
def test_each_epoch_has_all_own_rows_and_other_general_ones(own: int, pool: int, each: int, seed: int) -> None:
    epochs = [epoch_order(own + pool, seed, epoch, pool, each) for epoch in range(6)]
    assert epochs == [epoch_order(own + pool, seed, epoch, pool, each) for epoch in range(6)]
    for order in epochs:
        assert len(order) == own + each
        assert sorted(row for row in order if row < own) == list(range(own))
    taken = Counter(row for order in epochs for row in order if row >= own)
    assert max(taken.values()) - min(taken[row] for row in range(own, own + pool)) <= 1


def test_a_conversation_that_teaches_several_turns_counts_once(base: Base) -> None:
    twice = json.dumps({"messages": talk(("what is it?", "yes"), ("and that?", "no one"))}).encode() + b"\n"
    drawn = replay.draw([b"\n", twice, conversation(1)], base, wanted=4, epochs=2, seed=1, max_tokens=256)
    assert (drawn.examples, drawn.rows) == (4, 4)
    assert {row.line for row in drawn.pool.rows} == {2, 3}
    with pytest.raises(JobFailure, match="holds no example"):
        replay.draw([b"\n"], base, wanted=4, epochs=1, seed=1, max_tokens=256)
    with pytest.raises(JobFailure) as caught:
        replay.draw([b"{}\n"], base, wanted=4, epochs=1, seed=1, max_tokens=256)
    assert caught.value.code
