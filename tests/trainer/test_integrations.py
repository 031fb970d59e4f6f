"""The W&B run of a job: written for real in offline mode; and that nothing it does can harm the job."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootstock import interruptions
from rootstock.records import JobStatus
from tests.trainer.harness import Deployment
from tests.waiting import eventually
from trainer.base import Base
from trainer.worker import integrations
from trainer.worker.job import run_job
from trainer.worker.lease import Lease


def asked(job: str = "ftjob-run1") -> list[dict[str, Any]]:
    run = {"project": "tickets", "entity": None, "name": None, "run_id": job, "tags": ["openai/finetune"]}
    return [{"type": "wandb", "wandb": run}]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, wandb_mode="offline")
    yield made
    made.db.close()


def records(folder: Path) -> list[Any]:
    """What W&B has written so far, as its own messages."""
    from wandb.proto import wandb_internal_pb2

    kind: Any = vars(wandb_internal_pb2)["Record"]
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [kind.FromString(data) for path in files for data in entries(path.read_bytes())]


def entries(log: bytes) -> Iterator[bytes]:
    """The entries of a LevelDB log: blocks of 32 KiB, pieces of checksum, length and kind (1 whole, 2 to 4 cut up)."""
    at, cut = 7, b""  # behind W&B's own header
    while at + 7 <= len(log):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        piece = log[at + 7 : at + 7 + length]
        cut = piece if kind in (1, 2) else cut + piece
        if kind in (1, 4) and len(piece) == length:
            yield cut
        at += 7 + length


def finished_runs(deployment: Deployment, count: int) -> list[Any]:
    def look() -> list[Any]:
        found = records(deployment.settings.data_dir / "wandb")
        return found if sum(record.HasField("exit") for record in found) == count else []

    return list(eventually(look))


def history(found: list[Any]) -> list[dict[str, Any]]:
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]


def summary(found: list[Any]) -> dict[str, Any]:
    items = [item for record in found if record.HasField("summary") for item in record.summary.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.integration
def test_every_step_and_the_end_are_in_the_offline_run_files(deployment: Deployment, base: Base) -> None:
    job = deployment.queue(integrations=asked())
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    found = finished_runs(deployment, 1)
    told = [event.data for event in deployment.events(job.id) if event.data]
    rows = history(found)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["train_loss"] for row in rows] == pytest.approx([data["train_loss"] for data in told])
    run = next(record.run for record in found if record.HasField("run"))
    assert (run.run_id, run.project, run.display_name) == ("ftjob-run1", "tickets", job.id)
    assert list(run.tags) == ["openai/finetune"]
    assert summary(found)["status"] == "trained"
    assert [event for event in deployment.events(job.id) if event.level == "warn"] == []


@pytest.mark.integration
def test_a_paused_job_s_run_is_gone_on_with(
    deployment: Deployment, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = deployment.queue(integrations=asked())
    monkeypatch.setattr(Lease, "to_pause", True)
    claimed = deployment.claim()
    with deployment.db.transaction() as tx:
        interruptions.pause(tx, deployment.project, job.id)
    run_job(deployment.place(base), claimed)
    assert deployment.job(job.id).status is JobStatus.PAUSED
    assert summary(finished_runs(deployment, 1))["status"] == "paused"
    monkeypatch.setattr(Lease, "to_pause", False)
    with deployment.db.transaction() as tx:
        interruptions.resume(tx, deployment.project, job.id)
    run_job(deployment.place(base), deployment.claim())
    rows = history(finished_runs(deployment, 2))
    assert sorted(row["step"] for row in rows) == [1, 2, 3, 4, 5, 6]


CHILDREN = {
    "does not start": "raise SystemExit(3)",
    "dies at the first step": "import sys; sys.stdin.readline(); sys.stdin.readline(); raise SystemExit(9)",
    "hangs and reads nothing": "import time; time.sleep(600)",
}


@pytest.mark.parametrize("child", CHILDREN.values(), ids=list(CHILDREN))
def test_a_run_that_fails_or_hangs_costs_the_job_nothing_but_a_warning(
    deployment: Deployment, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str
) -> None:
    script = tmp_path / "child.py"
    script.write_text(child)
    monkeypatch.setattr(integrations, "CHILD", script)
    monkeypatch.setattr(integrations, "FINISH_SECONDS", 0.1)
    monkeypatch.setattr(integrations, "POLL_SECONDS", 0.05)
    job = deployment.queue(integrations=asked())
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    assert deployment.steps(job.id) == [1, 2, 3, 4, 5, 6]
    warned = eventually(lambda: [e.message for e in deployment.events(job.id) if e.level == "warn"])
    assert len(warned) == 1
    assert "could not be written completely; the training is not affected" in warned[0]


def test_a_trainer_that_may_not_report_does_not(tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = Deployment(tmp_path, wandb_mode="disabled")
    monkeypatch.setattr(integrations, "CHILD", tmp_path / "never")
    job = deployment.queue(integrations=asked())
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    assert not (tmp_path / "wandb").exists()
    deployment.db.close()
