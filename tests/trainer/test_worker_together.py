"""Several jobs on one worker: who may share a pass, that they do, and that none touches another."""

from pathlib import Path

import pytest

from rootstock import adapters, keys, tables
from rootstock.records import JobRecord, JobStatus
from tests.trainer.harness import Deployment, conversation, engine_of
from trainer.base import Base
from trainer.worker import process
from trainer.worker.job import Workplace, run_job
from trainer.worker.process import Stop


class StopWhenIdle(Stop):
    """Asks the worker to leave when it has nothing to do."""

    def pause(self, seconds: float) -> None:
        self.asked = True


def same_type(place: Workplace, job: JobRecord) -> Workplace:
    """All jobs here are adapters on the base as it is."""
    assert job.adapter_type == "lora"
    return place


def work(deployment: Deployment, base: Base) -> None:
    process._keep_training(deployment.place(base), StopWhenIdle(), "test", same_type)


def spans(deployment: Deployment, *made: JobRecord) -> list[tuple[int, int]]:
    """The first and the last metrics event of each job, in the order in which all events were written."""
    found = []
    for job in made:
        numbers = [event.seq for event in deployment.events(job.id) if event.data]
        found.append((numbers[0], numbers[-1]))
    return found


def together(deployment: Deployment, first: JobRecord, second: JobRecord) -> bool:
    (a, b), (c, d) = spans(deployment, first, second)
    return a < d and c < b


def final_weights(deployment: Deployment, job: JobRecord, folder: Path) -> bytes:
    done = deployment.job(job.id)
    assert done.status is JobStatus.FINALIZING
    assert done.adapter_id is not None
    adapters.fetch_tree(deployment.store, done.adapter_id, folder)
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are written when their step ends, so that their order tells how the jobs ran."""
    from trainer.worker.lease import Lease

    note = Lease.note

    def and_write(lease: Lease, progress: object, finish: float) -> None:
        note(lease, progress, finish)  # type: ignore[arg-type]
        with lease.transaction():
            pass

    monkeypatch.setattr(Lease, "note", and_write)


@pytest.mark.usefixtures("written_at_once")
def test_jobs_train_together_and_get_what_each_gets_alone(deployment: Deployment, base: Base, tmp_path: Path) -> None:
    lines = [[conversation(n, question) for n in range(10)] for question in ("what is it?", "who was that?")]
    alone = [deployment.queue(lines[0]), deployment.queue(lines[1], n_epochs=3)]
    for _ in alone:
        run_job(deployment.place(base), deployment.claim())
    shared = [deployment.queue(lines[0]), deployment.queue(lines[1], n_epochs=3)]
    work(deployment, base)
    assert together(deployment, *shared)
    assert not together(deployment, *alone)
    for before, after in zip(alone, shared, strict=True):
        assert deployment.steps(after.id) == deployment.steps(before.id)
        losses = [
            [event.data["train_loss"] for event in deployment.events(job.id) if event.data] for job in (before, after)
        ]
        assert losses[1] == pytest.approx(losses[0], abs=1e-4)
        final_weights(deployment, after, tmp_path / after.id)
    extras = deployment.job(shared[0].id).rootstock or {}
    assert (extras["engine"], extras["sharing"]) == ("packed", "deployment")


@pytest.mark.usefixtures("written_at_once")
@pytest.mark.parametrize(("policy", "shared"), [("off", False), ("project", False), ("deployment", True)])
def test_the_policy_says_who_shares(tmp_path: Path, base: Base, policy: str, shared: bool) -> None:
    deployment = Deployment(tmp_path, train_sharing=policy)
    ours = deployment.queue()
    with deployment.db.transaction() as tx:
        deployment.project = keys.ensure_project(tx, "proj_other", "acme")
    theirs = deployment.queue()
    work(deployment, base)
    assert together(deployment, ours, theirs) is shared
    assert {deployment.job(job.id).status for job in (ours, theirs)} == {JobStatus.FINALIZING}
    deployment.db.close()


@pytest.mark.usefixtures("written_at_once")
def test_a_job_whose_worker_died_before_trains_alone(deployment: Deployment, base: Base) -> None:
    suspect = deployment.queue()
    with deployment.db.transaction() as tx:
        tx.execute(tables.jobs.update().where(tables.jobs.c.id == suspect.id).values(attempts=1))
    other = deployment.queue()
    work(deployment, base)
    assert not together(deployment, suspect, other)
    assert {deployment.job(job.id).status for job in (suspect, other)} == {JobStatus.FINALIZING}


@pytest.mark.usefixtures("written_at_once")
def test_a_job_without_finite_loss_fails_and_its_neighbour_ends_well(deployment: Deployment, base: Base) -> None:
    broken = deployment.queue(learning_rate_multiplier=1e30)
    good = deployment.queue(n_epochs=3)
    work(deployment, base)
    failed = deployment.job(broken.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "training_diverged"
    assert deployment.job(good.id).status is JobStatus.FINALIZING
    assert deployment.steps(good.id) == list(range(1, 10))


def test_no_more_jobs_at_a_time_than_the_operator_allows(tmp_path: Path, base: Base) -> None:
    deployment = Deployment(tmp_path, max_jobs_per_step=2)
    made = [deployment.queue() for _ in range(3)]
    engine, most = engine_of(base), 0
    place = deployment.place(base)

    def leaving() -> bool:
        nonlocal most
        most = max(most, len(engine._slots))
        return False

    place = deployment.place(base, leaving)
    process._keep_training(place, StopWhenIdle(), "test", same_type)
    assert most == 2
    assert {deployment.job(job.id).status for job in made} == {JobStatus.FINALIZING}
    deployment.db.close()


def test_asked_to_leave_the_worker_hands_every_job_back(deployment: Deployment, base: Base) -> None:
    made = [deployment.queue(), deployment.queue()]
    stop = StopWhenIdle()
    steps = iter(range(100))

    def leaving() -> bool:
        stop.asked = stop.asked or next(steps) >= 2
        return stop.asked

    process._keep_training(deployment.place(base, leaving), stop, "test", same_type)
    for job in made:
        after = deployment.job(job.id)
        assert (after.status, after.attempts) == (JobStatus.QUEUED, 0)
        assert 0 < after.progress_step < 6
    work(deployment, base)
    for job in made:
        assert deployment.job(job.id).status is JobStatus.FINALIZING
        assert deployment.steps(job.id) == [1, 2, 3, 4, 5, 6]
