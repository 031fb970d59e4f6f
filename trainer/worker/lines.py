"""The files of a job, fetched from the store and read line by line. Knows nothing about what the lines hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.datasets import PARAMS
from rootstock.errors import JobFailure, ObjectNotFound
from rootstock.records import FileRole, JobRecord
from rootstock.release import replay
from rootstock.storage import Store
from trainer.worker.lease import Lease


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a fetched file, as often as they are wanted; reading them keeps the watchdog quiet."""

    path: Path
    lease: Lease

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            for line in file:
                self.lease.alive()
                yield line


def replay_wish(job: JobRecord) -> dict[str, Any] | None:
    """What the job says of general examples to mix in; `None`: nothing."""
    return (job.rootstock or {}).get("replay")


def fetch(store: Store, lease: Lease, folder: Path, role: FileRole) -> Lines:
    """The lines of the job's file of this role. Raises `JobFailure` where the content is no longer stored."""
    job = lease.job
    keys = {
        "training": job.training_object,
        "validation": job.validation_object,
        "replay": (replay_wish(job) or {}).get("object"),
    }
    key = keys[role]
    if key is None:
        assert role == "replay"
        return Lines(replay.BUILT_IN, lease)
    path = folder / f"{role}.jsonl"

    def put_down() -> None:
        with path.open("wb") as file:
            file.writelines(store.get(key))

    try:
        lease.persist(put_down)
    except ObjectNotFound as error:
        text = f"The {role} file's content is no longer stored. Upload it again and create a new job."
        raise JobFailure(f"invalid_{role}_file", text, PARAMS[role]) from error
    return Lines(path, lease)
