"""A whole API for tools that test it from outside: real HTTP, SQLite, a local store, a stand-in vLLM and trainer.

Knows how to start it and to fill it with one of everything; nothing about what is then asked of it.
"""

import asyncio
import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rootstock import events, ids, jobs, keys, publish
from rootstock.adapters import put_tree
from rootstock.db import Database
from rootstock.errors import AdapterInvalid, LeaseLost
from rootstock.records import JobRecord, JobStatus
from rootstock.settings import BUILT_IN_BASE, Settings
from rootstock.storage import open_store
from service.app import create_app
from service.batching.life import Workplace
from service.batching.process import WORK
from service.replicas import Upstream
from tests.rootstock.adapter_files import FACTS, write
from tests.service.conftest import OTHER_PROJECT, chat_rows, served
from tests.service.fake_vllm import FakeVllm

MODEL = "gpt-4o-mini-2024-07-18"
BASE, NEXT = BUILT_IN_BASE.name, "rootstock-next"
"""The base model, and a second one, which nothing trains on."""

SLOWLY = "Take your time."
"""What the stand-in answers late, so that there is something to cancel; a real model just answers it."""

SLOW_SECONDS = 3.0
NOWHERE = "redis://127.0.0.1:1/0"
STEPS = 3
PAUSE_SECONDS = 0.2
CSV = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.5,0.9,,\n2,0.4,0.9,,\n"


@dataclass
class Live:
    """A running API: its address, a key of an owner, and the ids of what is in it by where requests name them.

    Example of `known`: `{("path.job_id",): ["ftjob-..."]}`.
    """

    url: str
    key: str
    inbox: "Inbox | None"
    known: dict[tuple[str, ...], list[str]] = field(default_factory=dict)

    def http(self) -> httpx.Client:
        """A client with the key, for requests that the SDK would not send."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)


@contextlib.contextmanager
def live(**settings: Any) -> Iterator[Live]:
    """Start everything in this process; `settings` are those of the API."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        engine = stack.enter_context(served(Engine().app()))
        inbox = Inbox()
        inbox.url = stack.enter_context(served(inbox.app()))
        fixed: dict[str, Any] = {"vllm_url": engine, "redis_url": NOWHERE, "sweep_seconds": 0.5}
        fixed["webhook_allowed_networks"] = "127.0.0.0/8"
        fixed |= {"more_bases": {NEXT: str(BUILT_IN_BASE)}, "more_vllm_urls": {NEXT: engine}}
        chosen = Settings.from_env({}, data_dir=Path(folder), **fixed, **settings)
        database = Database(chosen.effective_database_url)
        stack.callback(database.close)
        database.migrate()
        with database.transaction() as tx:
            key = keys.create(tx, keys.ensure_default_project(tx, chosen.organization), "live")
            tx.exec_driver_sql(f"INSERT INTO projects VALUES ('{OTHER_PROJECT}', '{chosen.organization}', 'Other', 0)")
        stack.enter_context(Trainer(database, chosen))
        stack.enter_context(BatchWorker(database, chosen))
        url = stack.enter_context(served(create_app(chosen)))
        yield Live(url, key, inbox)


class Engine(FakeVllm):
    """The stand-in vLLM, with ids of its own for each answer, and slow where it is asked to be."""

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        if SLOWLY.encode() in await request.body():
            await asyncio.sleep(SLOW_SECONDS)
        return await super()._answer(request, chat=chat)

    def _envelope(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        return super()._envelope(body, kind) | {"id": ids.new("chatcmpl-")}


@dataclass
class Inbox:
    """A webhook receiver that keeps what it gets: headers and body of each delivery."""

    url: str = ""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def app(self) -> Starlette:
        """The receiver, to be served."""

        async def take(request: Request) -> Response:
            self.received.append((dict(request.headers), await request.body()))
            return Response(status_code=200)

        return Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])


class Worker(threading.Thread):
    """Something that works in the background for as long as a `with` block lasts."""

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self._db, self._store, self._settings = database, open_store(settings), settings
        self._stopping = threading.Event()

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join(10)


class BatchWorker(Worker):
    """The real one, without its process and its bell."""

    def run(self) -> None:
        """Work until stopped."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        upstream = Upstream(self._settings)
        place = Workplace(self._settings, self._db, self._store, upstream, self._stopping.is_set)
        while not self._stopping.is_set():
            if not any([await take(place, "live") for take in WORK]):
                await asyncio.sleep(PAUSE_SECONDS)
        await upstream.aclose()


class Trainer(Worker):
    """Takes jobs as a trainer does and ends them at once, with every kind of row that a real one writes."""

    def run(self) -> None:
        """Work until stopped."""
        base = self._settings.base_name
        while not self._stopping.wait(PAUSE_SECONDS):
            with contextlib.suppress(LeaseLost):
                with self._db.transaction() as tx:
                    job = jobs.claim(tx, base=base, worker="stand-in", lease_seconds=600)
                if job is not None and "hold" not in (job.metadata or {}):  # a held one stays running
                    self._train(job)

    def _train(self, job: JobRecord) -> None:
        result = publish.ResultFile(id=ids.new("file-"), bytes=len(CSV), sha256="0" * 64)
        self._store.put_bytes(result.object_key, CSV)
        made = [self._adapter(f"{job.id[-20:]}-{name}") for name in ("1", "end")]
        with self._db.transaction() as tx:
            for step in range(1, STEPS + 1):
                data = {"step": step, "total_steps": STEPS, "train_loss": 0.5, "train_mean_token_accuracy": 0.9}
                message = f"Step {step}/{STEPS}: training loss=0.50"
                events.add(tx, job.id, job.project_id, message, type="metrics", data=data, dedupe=f"step-{step}")
            publish.checkpoint(
                tx,
                job,
                job.fence,
                adapter_id=made[0],
                state_prefix=f"states/{job.id}/1",
                step=1,
                epoch=1,
                metrics={"step": 1, "train_loss": 0.5},
            )
            publish.finalize(
                tx,
                job,
                job.fence,
                adapter_id=made[1],
                state_prefix=None,
                step=STEPS,
                epoch=2,
                metrics={"step": STEPS, "train_loss": 0.4},
                trained_tokens=1000,
                result_csv=result,
            )

    def _adapter(self, adapter_id: str) -> str:
        folder = write(self._settings.data_dir / "adapter")
        with contextlib.suppress(AdapterInvalid):  # it is there: the job was paused just after, and resumed
            put_tree(self._store, adapter_id, folder, **FACTS)
        return adapter_id


def jsonl(*rows: Any) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def training_rows() -> bytes:
    """A chat file that a job accepts."""
    return chat_rows(12)


def suite_rows() -> bytes:
    """Questions of a general suite."""
    asked = [{"role": "user", "content": f"What is {n} + 2? Answer with the number."} for n in range(10)]
    return jsonl(*({"messages": [one], "answer": str(n + 2), "how": "exact"} for n, one in enumerate(asked)))


def batch_rows(model: str = MODEL, question: str = "Hi") -> bytes:
    """The input of a batch with two requests."""
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    return jsonl(
        *({"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in (1, 2))
    )


TERMINAL = {str(status) for status in JobStatus if status.terminal}
