"""TensorBoard event files: what a job writes, and that a disk that refuses does not reach it."""

import importlib.util
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from rootstock.errors import ConfigurationError
from tests.trainer.harness import Deployment, conversation
from trainer.base import Base
from trainer.worker.board import Board, check_available
from trainer.worker.job import run_job


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) -> value of everything in the folder's event files, which are records: length, crc, data, crc."""
    found = {}
    for file in folder.glob("events.out.tfevents.*"):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            event = Event.FromString(data[12 : 12 + length])
            data = data[12 + length + 4 :]
            found.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
    return found


def test_a_job_writes_every_step(tmp_path: Path, base: Base) -> None:
    deployment = Deployment(tmp_path, tensorboard_dir=tmp_path / "boards")
    job = deployment.queue(validation=[conversation(n) for n in range(3)])
    run_job(deployment.place(base), deployment.claim())
    told = {event.data["step"]: event.data for event in deployment.events(job.id) if event.data}
    found = scalars(tmp_path / "boards" / job.id)
    assert {step for _, step in found} == set(range(1, 7))
    for step, metrics in told.items():
        assert found["train/loss", step] == pytest.approx(metrics["train_loss"], rel=1e-5)
    assert found["full_valid/loss", 6] == pytest.approx(told[6]["full_valid_loss"], rel=1e-5)
    assert found["tokens_per_second", 3] > 0 and found["memory_bytes", 3] > 0
    deployment.db.close()


def test_a_disk_that_refuses_does_not_reach_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    board = Board(tmp_path / "file" / "job")
    board.step(1, {"train_loss": 1.0})
    board.close()


def test_asked_for_without_the_package_the_worker_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    check_available(Path("boards"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_available(None)
    with pytest.raises(ConfigurationError, match="tensorboardX is not installed"):
        check_available(Path("boards"))
