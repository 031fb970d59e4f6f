"""A claimed job in this process: everything it leaves behind, and every way it can end."""

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from rootstock import adapters, interruptions, jobs, models, publish
from rootstock.records import JobStatus
from rootstock.workdir import workdir
from tests.trainer.harness import Deployment, conversation, preference
from trainer.base import Base
from trainer.loop import Progress
from trainer.method import LOSS_COLUMNS
from trainer.worker.job import run_job
from trainer.worker.lease import step_message
from trainer.worker.report import results_csv


def test_a_job_runs_to_its_end(deployment: Deployment, base: Base, tmp_path: Path) -> None:
    job = deployment.queue(validation=[conversation(n) for n in range(3)])
    run_job(deployment.place(base), deployment.claim())
    done = deployment.job(job.id)
    numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0}
    assert done.status is JobStatus.FINALIZING
    assert done.hyperparameters == numbers
    assert done.method == {"type": "supervised", "supervised": {"hyperparameters": numbers}}
    assert (done.progress_step, done.total_steps) == (6, 6)
    assert done.trained_tokens is not None
    assert done.trained_tokens > 2 * 10 * 10
    # The final adapter is whole, fit to serve, and says what it was made from.
    assert done.adapter_id is not None
    manifest = adapters.fetch_tree(deployment.store, done.adapter_id, tmp_path / "fetched")
    adapters.verify_tree(tmp_path / "fetched", manifest, base.model.config.to_dict())
    assert (manifest.base, manifest.base_sha256) == ("tiny-random", base.fingerprint)
    assert manifest.template_sha256 == base.template_sha256
    assert manifest.recipe["asked"]["learning_rate_multiplier"] == "auto"
    # The results file has a row per step.
    assert done.result_file is not None
    table = deployment.store.get_bytes(f"files/{done.result_file}").decode().splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [line.split(",")[0] for line in table[1:]] == ["1", "2", "3", "4", "5", "6"]
    # Nothing of the customer's data stays on this machine.
    assert list((tmp_path / "trainer").iterdir()) == []
    with deployment.db.transaction() as tx:
        assert publish.succeed(tx, job.id)
        saved = jobs.list_checkpoints(tx, deployment.project, job.id).data
        ready = [m.id for m in models.list_ready(tx, deployment.project)]
    assert [c.step_number for c in saved] == [6, 3]
    assert saved[0].model_name == deployment.job(job.id).fine_tuned_model
    assert {c.model_name for c in saved} == set(ready)
    assert "full_valid_loss" in saved[1].metrics


def test_a_preference_job_runs_to_its_end(deployment: Deployment, base: Base, tmp_path: Path) -> None:
    job = deployment.queue(method="dpo", beta="auto", validation=[preference(n) for n in range(3)])
    run_job(deployment.place(base), deployment.claim())
    done = deployment.job(job.id)
    numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0}
    assert (done.status, done.error) == (JobStatus.FINALIZING, None)
    assert done.hyperparameters == numbers
    assert done.method == {"type": "dpo", "dpo": {"hyperparameters": numbers | {"beta": 0.1}}}
    assert done.trained_tokens is not None
    assert done.trained_tokens > 2 * 2 * 10 * 10  # both sides count
    told = [event.data for event in deployment.events(job.id) if event.data]
    assert told[0].keys() >= {"step", "total_steps"} | {
        f"train_{name}" for name in ("loss", "mean_token_accuracy", "reward_margin", "reward_accuracy")
    }
    assert {"full_valid_loss", "full_valid_reward_margin", "full_valid_reward_accuracy"} <= told[-1].keys()
    assert done.result_file is not None
    table = deployment.store.get_bytes(f"files/{done.result_file}").decode().splitlines()
    assert table[0] == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,"
        "train_reward_margin,train_reward_accuracy,valid_reward_margin,valid_reward_accuracy"
    )
    cells = [line.split(",") for line in table[1:]]
    assert [row[0] for row in cells] == ["1", "2", "3", "4", "5", "6"]
    assert all(cell == "" or math.isfinite(float(cell)) for row in cells for cell in row)
    assert all(len(row) == 9 for row in cells)
    assert done.adapter_id is not None
    manifest = adapters.fetch_tree(deployment.store, done.adapter_id, tmp_path / "fetched")
    adapters.verify_tree(tmp_path / "fetched", manifest, base.model.config.to_dict())
    assert (manifest.recipe["method"], manifest.recipe["beta"]) == ("dpo", 0.1)


def test_a_preference_with_a_side_of_which_nothing_is_left_fails_the_job_with_its_line(
    deployment: Deployment, base: Base
) -> None:
    lines = [preference(n) for n in range(9)] + [b"\n", preference(9, "hello " * 300)]
    job = deployment.queue(lines, method="dpo")
    run_job(deployment.place(base), deployment.claim())
    error = deployment.job(job.id).error
    assert error is not None
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert "Example 11: nothing is left to learn within 256 tokens" in error["message"]


def test_the_event_log_reads_as_the_contract_says(deployment: Deployment, base: Base) -> None:
    job = deployment.queue(validation=[conversation(n) for n in range(3)])
    run_job(deployment.place(base), deployment.claim())
    told = deployment.events(job.id)
    messages = [event.message.partition("=")[0] for event in told][3:]
    # A checkpoint is told when it is stored, which the steps behind it do not wait for.
    (saved,) = [message for message in messages if message.startswith("Checkpoint")]
    assert saved.startswith("Checkpoint created at step 3 with Snapshot ID: ft:")
    assert messages.index(saved) > messages.index("Step 3/6: training loss")
    messages.remove(saved)
    assert messages.pop(1).startswith("Data report: 10 examples")
    assert messages[:7] == ["Fine-tuning job started", *(f"Step {n}/6: training loss" for n in range(1, 7))]
    last = next(event for event in told if event.data and event.data["step"] == 3)
    assert last.type == "metrics"
    assert [part.partition("=")[0] for part in last.message.split(": ")[1].split(", ")] == [
        "training loss",
        "validation loss",
        "full validation loss",
    ]
    assert {"step", "total_steps", "train_loss", "train_mean_token_accuracy"} <= last.data.keys()  # type: ignore[union-attr]


def test_a_fault_in_the_data_fails_the_job_with_its_line_and_the_next_one_runs(
    deployment: Deployment, base: Base
) -> None:
    long = conversation(3, "hello " * 300)
    broken = deployment.queue([conversation(n) for n in range(9)] + [long])
    good = deployment.queue()
    for _ in range(2):
        run_job(deployment.place(base), deployment.claim())
    failed = deployment.job(broken.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert (failed.error["code"], failed.error["param"]) == ("invalid_training_file", "training_file")
    assert "Example 10: nothing is left to learn within 256 tokens" in failed.error["message"]
    assert deployment.events(broken.id)[-1].level == "error"
    assert deployment.job(good.id).status is JobStatus.FINALIZING


def test_truncated_examples_are_warned_of_once(deployment: Deployment, base: Base) -> None:
    lines = [conversation(n) for n in range(9)]
    answer = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "no " * 300}]})
    job = deployment.queue([*lines, answer.encode() + b"\n"])
    run_job(deployment.place(base), deployment.claim())
    warned = [event.message for event in deployment.events(job.id) if event.level == "warn"]
    assert warned == ["1 of 10 examples in the training file are longer than 256 tokens and were truncated at the end"]


def test_a_training_file_that_is_gone_fails_the_job_and_says_so(deployment: Deployment, base: Base) -> None:
    job = deployment.queue()
    deployment.store.delete(job.training_object)
    run_job(deployment.place(base), deployment.claim())
    error = deployment.job(job.id).error
    assert error is not None
    assert "no longer stored" in error["message"]


def test_our_own_faults_fail_the_job_without_telling_internals(
    deployment: Deployment, base: Base, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret path /var/x")

    job = deployment.queue()
    monkeypatch.setattr(adapters, "put_tree", broken)
    run_job(deployment.place(base), deployment.claim())
    error = deployment.job(job.id).error
    assert error is not None
    assert error["code"] == "server_error"
    assert "secret" not in error["message"]
    assert "secret path" in caplog.text


def test_a_cancelled_job_stops_and_leaves_nothing_more(deployment: Deployment, base: Base) -> None:
    job = deployment.queue(n_epochs=50)
    steps = 0

    def cancel_at_second_step() -> bool:
        nonlocal steps
        steps += 1
        if steps == 2:
            with deployment.db.transaction() as tx:
                jobs.cancel(tx, deployment.project, job.id)
        return False

    run_job(deployment.place(base, cancel_at_second_step), deployment.claim())
    assert steps < 150
    cancelled = deployment.job(job.id)
    assert (cancelled.status, cancelled.result_file) == (JobStatus.CANCELLED, None)
    assert deployment.events(job.id)[-1].message == "Job cancelled"
    with deployment.db.read() as tx:
        assert models.list_ready(tx, deployment.project) == []
    assert deployment.store.list("states/") == deployment.store.list("adapters/") == []


@pytest.mark.parametrize(("method", "step"), [("supervised", 1), ("supervised", 3), ("supervised", 5), ("dpo", 2)])
def test_a_worker_that_must_leave_hands_the_job_back_and_the_next_one_goes_on(
    deployment: Deployment, base: Base, method: str, step: int
) -> None:
    whole = deployment.queue(method=method)
    run_job(deployment.place(base), deployment.claim())
    job = deployment.queue(method=method)
    count = iter(range(1, 100))
    run_job(deployment.place(base, lambda: next(count) == step), deployment.claim("first"))
    waiting = deployment.job(job.id)
    assert (waiting.status, waiting.attempts) == (JobStatus.QUEUED, 0)
    assert deployment.steps(job.id) == list(range(1, step + 1))
    run_job(deployment.place(base), deployment.claim("second"))
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    assert deployment.steps(job.id) == [1, 2, 3, 4, 5, 6]
    told, expected = ([e.data for e in deployment.events(j.id) if e.data] for j in (job, whole))
    assert [d["train_loss"] for d in told] == pytest.approx([d["train_loss"] for d in expected], abs=1e-6)
    tables = []
    for one in (job, whole):
        result = deployment.job(one.id).result_file
        tables.append(deployment.store.get_bytes(f"files/{result}"))
    assert tables[0] == tables[1]


def test_a_lost_worker_s_job_goes_on_from_the_last_checkpoint(deployment: Deployment, base: Base) -> None:
    job = deployment.queue()
    steps = 0

    def die_in_the_second_epoch() -> bool:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise SystemExit  # as abrupt as it gets inside a process: nothing is told to anyone
        return False

    claimed = deployment.claim()
    with pytest.raises(SystemExit):
        run_job(deployment.place(base, die_in_the_second_epoch), claimed)
    with deployment.db.transaction() as tx:
        interruptions.hand_back(tx, job.id, claimed.fence)  # what the sweep does when the lease has expired
    again = iter(range(100))
    run_job(deployment.place(base, lambda: next(again) < 0), deployment.claim())
    assert next(again) == 3
    assert deployment.steps(job.id) == [1, 2, 3, 4, 5, 6]
    checkpoints = [e for e in deployment.events(job.id) if e.message.startswith("Checkpoint created")]
    assert len(checkpoints) == 1


def test_step_messages_are_worded_as_the_live_service_does() -> None:
    metrics = {"train_loss": 0.004, "valid_loss": 0.306, "full_valid_loss": 0.3}
    assert step_message(Progress(290, 303, metrics, 1, 1.0)) == (
        "Step 290/303: training loss=0.00, validation loss=0.31, full validation loss=0.30"
    )


def test_the_results_file_leaves_cells_blank_and_rounds() -> None:
    rows = [
        {"step": 1, "train_loss": 1.23456789, "train_mean_token_accuracy": 0.5},
        {"step": 2, "train_loss": 1.0, "train_mean_token_accuracy": 1.0, "valid_loss": 1e-9}
        | {"valid_mean_token_accuracy": 0.25},
    ]
    assert results_csv(rows, LOSS_COLUMNS).splitlines()[1:] == [
        "1,1.23457,0.50000,,",
        "2,1.00000,1.00000,0.00000,0.25000",
    ]


def test_a_workdir_is_private_and_dead_ones_are_removed(tmp_path: Path) -> None:
    dead = tmp_path / "job-dead"
    dead.mkdir()
    (dead / "training.jsonl").write_text("customer data")
    with workdir(tmp_path) as first:
        assert first.stat().st_mode & 0o777 == 0o700
        assert not dead.exists()
        entered = threading.Event()

        def other() -> None:
            with workdir(tmp_path):
                entered.set()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert entered.is_set()
        assert first.exists()  # alive: another worker's start leaves it alone
    assert not first.exists()
