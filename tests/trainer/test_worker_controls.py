"""Jobs that choose what is trained, when to end, and that learn from a grader: through the worker, into the rows."""

import csv
import io
from pathlib import Path
from typing import Any

from rootstock import adapters, jobs
from rootstock.records import JobRecord, JobStatus
from tests.trainer.harness import Deployment, conversation
from tests.trainer.looping import GRADER
from trainer.base import Base, load_base
from trainer.worker import process
from trainer.worker.engines import Engines
from trainer.worker.job import Workplace, live, run_job
from trainer.worker.process import Stop

TINY = "examples/base/rootstock-tiny"


def run(deployment: Deployment, base: Base, **asked: Any) -> JobRecord:
    deployment.queue(**asked)
    claimed = deployment.claim()
    run_job(deployment.place(base), claimed)
    return deployment.job(claimed.id)


def messages(deployment: Deployment, job: JobRecord) -> list[str]:
    return [event.message for event in deployment.events(job.id)]


def test_a_budget_of_tokens_ends_a_job_with_a_model(deployment: Deployment, base: Base) -> None:
    whole = run(deployment, base)
    assert (whole.rootstock or {})["stopped_early"] is None
    job = run(deployment, base, extras={"budget": {"max_tokens": 20, "max_minutes": None}})
    kept = job.rootstock or {}
    assert job.status is JobStatus.FINALIZING
    assert job.progress_step == 1 < (job.total_steps or 0)
    assert kept["stopped_early"].startswith("the budget of 20 tokens is used")
    assert 20 <= (job.trained_tokens or 0) < (whole.trained_tokens or 0)
    assert kept["tokens_saved"] == (whole.trained_tokens or 0) - (job.trained_tokens or 0)
    saved = f"; {kept['tokens_saved']:,} tokens of training were saved"
    assert f"Training ended early: {kept['stopped_early']}{saved}" in messages(deployment, job)
    assert job.adapter_id is not None
    assert adapters.read_manifest(deployment.store, job.adapter_id).recipe["budget_tokens"] == 20


def test_without_improvement_a_job_ends_early_with_its_best_step(deployment: Deployment, base: Base) -> None:
    unlike = [conversation(n, "another question, answered otherwise") for n in range(3, 7)]
    job = run(
        deployment,
        base,
        validation=unlike,
        n_epochs=30,
        learning_rate_multiplier=8,
        extras={"early_stopping": {"patience": 2, "min_delta": 0.0}},
    )
    kept, steps = job.rootstock or {}, [e.data for e in deployment.events(job.id) if e.data]
    assert job.status is JobStatus.FINALIZING
    assert "validation loss did not improve 2 times in a row" in kept["stopped_early"]
    full = {data["step"]: data["full_valid_loss"] for data in steps if "full_valid_loss" in data}
    assert kept["best_step"] == min(full, key=lambda step: full[step])
    assert len(full) < 30
    with deployment.db.read() as tx:
        final = jobs.last_checkpoint(tx, job.id)
    assert final is not None
    assert final.metrics["full_valid_loss"] == full[kept["best_step"]]


def prompt(number: int) -> bytes:
    line = conversation(number).decode().rstrip()
    asked = line[: line.index(', {"role": "assistant"')]
    return (asked + '], "answer": "yes"}\n').encode()


def test_a_reinforcement_job_tells_rewards(deployment: Deployment, base: Base) -> None:
    asked = {"n_epochs": 1, "batch_size": 5, "compute_multiplier": 0.25, "eval_interval": 1, "eval_samples": 1}
    job = run(
        deployment,
        base,
        lines=[prompt(n) for n in range(10)],
        validation=[prompt(1)],
        method="reinforcement",
        branch={"grader": GRADER},
        **asked,
    )
    assert job.status is JobStatus.FINALIZING, job.error
    assert job.method["reinforcement"]["hyperparameters"]["eval_interval"] == 1
    steps = [message for message in messages(deployment, job) if message.startswith("Step ")]
    assert len(steps) == 2
    assert steps[0].startswith("Step 1/2 , train mean reward=")
    assert "full validation mean reward=" in steps[0]
    assert job.result_file is not None
    table = list(csv.DictReader(io.StringIO(deployment.store.get_bytes(f"files/{job.result_file}").decode())))
    assert [row["step"] for row in table] == ["1", "2"]
    assert all(0 <= float(row["train_mean_reward"]) <= 1 for row in table)
    with deployment.db.read() as tx:
        assert [c.step_number for c in jobs.list_checkpoints(tx, deployment.project, job.id).data] == [2, 1]


def test_answers_that_cannot_be_graded_are_told_once(deployment: Deployment, base: Base) -> None:
    grader = GRADER | {"reference": "{{item.nothing}}"}
    asked = {"n_epochs": 2, "batch_size": 5, "compute_multiplier": 0.25}
    job = run(
        deployment,
        base,
        lines=[prompt(n) for n in range(10)],
        method="reinforcement",
        branch={"grader": grader},
        **asked,
    )
    assert job.status is JobStatus.FINALIZING, job.error
    (told,) = [message for message in messages(deployment, job) if "cannot be graded" in message]
    assert "nothing" in told


def test_a_worker_trains_every_type_one_after_another(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, base_name="rootstock-tiny")
    kinds = ("lora", "qlora", "full", "lora", "full", "qlora")
    made = [deployment.queue(kind=kind, n_epochs=1) for kind in kinds]
    loads: list[bool] = []

    def load(quantised: bool) -> Base:
        loads.append(quantised)
        return load_base(TINY, name="rootstock-tiny", device="cpu", threads=1, quantised=quantised)

    class StopWhenIdle(Stop):
        def pause(self, seconds: float) -> None:
            self.asked = True

    with Engines(load) as engines:
        place = Workplace(
            deployment.settings, deployment.db, deployment.store, engines.base, engines.engine, lambda: False
        )

        def for_type(place: Workplace, job: JobRecord) -> Workplace:
            return process._for_type(engines, place, job)

        process._keep_training(place, StopWhenIdle(), "test", for_type)
    ended = [deployment.job(job.id) for job in made]
    assert [job.status for job in ended] == [JobStatus.FINALIZING] * 6, [job.error for job in ended]
    assert [(job.rootstock or {})["engine"] for job in ended] == [
        "full" if kind == "full" else "packed" for kind in kinds
    ]
    for job, kind in zip(ended, kinds, strict=True):
        assert job.adapter_id is not None
        manifest = adapters.read_manifest(deployment.store, job.adapter_id)
        assert manifest.kind == ("full" if kind == "full" else "lora")
        assert manifest.recipe["type"] == kind
    # The first group took both lora jobs, so the base was loaded anew only for the two groups of qlora.
    assert loads[0] is False and loads.count(True) <= 2
    deployment.db.close()


def test_a_type_that_has_no_engine_here_fails_its_job_and_no_other(deployment: Deployment, base: Base) -> None:
    job = deployment.queue(kind="qlora")
    claimed = deployment.claim()
    place = Workplace(deployment.settings, deployment.db, deployment.store, base, None, lambda: False)
    assert list(live(place, claimed)) == []
    error = deployment.job(job.id).error or {}
    assert error["param"] == "rootstock.adapter.type"
    assert "'qlora'" in error["message"]


def test_others_train_while_a_grader_works(deployment: Deployment, base: Base) -> None:
    slow = {"type": "python", "source": "import time\ndef grade(sample, item):\n    time.sleep(1.5)\n    return 1.0\n"}
    asked = {"n_epochs": 1, "batch_size": 10, "compute_multiplier": 0.25}
    graded = deployment.queue([prompt(n) for n in range(10)], method="reinforcement", branch={"grader": slow}, **asked)
    other = deployment.queue()

    class StopWhenIdle(Stop):
        def pause(self, seconds: float) -> None:
            self.asked = True

    process._keep_training(deployment.place(base), StopWhenIdle(), "test", lambda place, _: place)
    ended = [deployment.job(job.id) for job in (graded, other)]
    assert [job.status for job in ended] == [JobStatus.FINALIZING] * 2, [job.error for job in ended]
    only, *_ = (event.created_at for event in deployment.events(graded.id) if event.data)
    steps = [event.created_at for event in deployment.events(other.id) if event.data]
    assert max(steps) < only  # 20 answers, 8 at a time, at 1.5 seconds; and six short steps beside them
