"""A deployment without processes: a database, a store and jobs, as the service would have left them for a trainer."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rootstock import events, files, ids, jobs, keys
from rootstock.datasets import Checker
from rootstock.db import Database
from rootstock.records import EventRecord, FileRecord, JobRecord, Start
from rootstock.settings import Settings
from rootstock.storage import Store, open_store
from trainer.base import Base
from trainer.engine import PackedEngine
from trainer.worker.job import Workplace

ANSWERS = ("yes", "no one", "the red apple", "a cat sleeps in the sun")


def talk(*pairs: tuple[str, str], **last: Any) -> list[dict[str, Any]]:
    """Questions with their answers as messages; `last` is laid over the last of them."""
    messages = [m for q, a in pairs for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]
    messages[-1] |= last
    return messages


def conversation(number: int, question: str = "what is it?") -> bytes:
    """A line of a training file."""
    messages = talk((f"{question} {number}", ANSWERS[number % len(ANSWERS)]))
    return json.dumps({"messages": messages}).encode() + b"\n"


def preference(number: int, question: str = "what is it?") -> bytes:
    """A line of a preference file: the same question and answer, preferred to the next one."""
    asked, better = talk((f"{question} {number}", ANSWERS[number % len(ANSWERS)]))
    worse = better | {"content": ANSWERS[(number + 1) % len(ANSWERS)]}
    line = {"input": {"messages": [asked]}, "preferred_output": [better], "non_preferred_output": [worse]}
    return json.dumps(line).encode() + b"\n"


COMMON = ("n_epochs", "batch_size", "learning_rate_multiplier")

_engines: dict[int, PackedEngine] = {}


def engine_of(base: Base) -> PackedEngine:
    """The engine of a base, which stays as long as the tests use the base."""
    if id(base) not in _engines:
        _engines[id(base)] = PackedEngine(base).__enter__()
    return _engines[id(base)]


class Deployment:
    """Everything but the trainer."""

    def __init__(self, folder: Path, base_name: str = "tiny-random", **settings: Any) -> None:
        values = {"data_dir": folder, "base_model_name": base_name, "lease_seconds": 10, "heartbeat_seconds": 0.5}
        self.settings = Settings(**(values | settings))
        self.db = Database(self.settings.effective_database_url)
        self.db.migrate()
        self.store: Store = open_store(self.settings)
        with self.db.transaction() as tx:
            self.project = keys.ensure_default_project(tx, "acme")

    def upload(self, content: bytes) -> FileRecord:
        file_id = ids.new("file-")
        checker = Checker(1 << 20)
        checker.feed(content)
        self.store.put_bytes(f"files/{file_id}", content)
        with self.db.transaction() as tx:
            return files.create(
                tx,
                file_id=file_id,
                project_id=self.project,
                filename="train.jsonl",
                purpose="fine-tune",
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                object_key=f"files/{file_id}",
                check=checker.finish(),
            )

    def queue(
        self,
        lines: list[bytes] | None = None,
        *,
        validation: list[bytes] | None = None,
        start: Start | None = None,
        rank: int | None = None,
        kind: str = "lora",
        extras: dict[str, Any] | None = None,
        integrations: list[Any] | None = None,
        branch: dict[str, Any] | None = None,
        method: str = "supervised",
        **asked: Any,
    ) -> JobRecord:
        """A job in the queue: ten examples, three steps per epoch, two epochs, unless told otherwise."""
        line = preference if method == "dpo" else conversation
        training = self.upload(b"".join(lines or [line(n) for n in range(10)]))
        held_out = self.upload(b"".join(validation)) if validation else None
        hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": "auto"} | asked
        with self.db.transaction() as tx:
            job = jobs.create(
                tx,
                project_id=self.project,
                model=self.settings.base_name,
                base=self.settings.base_name,
                training=training,
                validation=held_out,
                suffix=None,
                seed=5,
                method={"type": method, method: {**(branch or {}), "hyperparameters": hyperparameters}},
                hyperparameters={name: hyperparameters[name] for name in COMMON},
                integrations=integrations or [],
                metadata=None,
                start=start,
                rootstock={"adapter": {"type": kind, "rank": rank or "auto"}, **(extras or {})},
            )
            jobs.to_queued(tx, job.id)
        return self.job(job.id)

    def claim(self, worker: str = "test") -> JobRecord:
        with self.db.transaction() as tx:
            job = jobs.claim(tx, base=self.settings.base_name, worker=worker, lease_seconds=self.settings.lease_seconds)
        assert job is not None
        return job

    def job(self, job_id: str) -> JobRecord:
        with self.db.read() as tx:
            job = jobs.find(tx, job_id)
        assert job is not None
        return job

    def events(self, job_id: str) -> list[EventRecord]:
        """Oldest first."""
        with self.db.read() as tx:
            return events.list_page(tx, job_id, limit=1000, after=None).data[::-1]

    def steps(self, job_id: str) -> list[int]:
        """The numbers of the steps that the event log tells of, in its order."""
        return [event.data["step"] for event in self.events(job_id) if event.data]

    def place(self, base: Base, leaving: Callable[[], bool] = lambda: False) -> Workplace:
        return Workplace(self.settings, self.db, self.store, base, engine_of(base), leaving)
