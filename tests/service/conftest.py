"""The API in this process, driven by the official SDK: no sockets at unit level, real ones behind `serve`."""

import contextlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from openai import OpenAI
from starlette.types import ASGIApp

from rootstock import jobs, keys, models, publish
from rootstock.bell import Bell
from rootstock.db import Database
from rootstock.records import JobRecord, ModelState
from rootstock.settings import Settings
from rootstock.storage import open_store
from rootstock.sweep import Sweep
from service.app import create_app
from service.deps import Parts
from service.limits import Limits
from service.meter import Meter
from service.outbound import Outbound
from service.replicas import Upstream
from service.sampling import Sampler
from tests.conftest import OWN_SERVERS
from tests.service.fake_vllm import FakeVllm
from tests.service.network import Network

OTHER_PROJECT = "proj_other"


class AppTransport(httpx.BaseTransport):
    """Lets a synchronous client call an ASGI app without a socket."""

    def __init__(self, app: ASGIApp, portal: BlockingPortal) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._portal.call(self._send, request)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        copied = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        answer = await self._inner.handle_async_request(copied)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())


class QuietBell:
    """Redis away, without the connection attempts; remembers who was rung for."""

    def __init__(self) -> None:
        self.rung: list[str] = []
        self.heard = True

    def ring(self, queue_name: str, row_id: str, rings: int) -> bool:
        self.rung.append(row_id)
        return self.heard

    def ping(self) -> bool:
        return self.heard


@dataclass
class Api:
    """The app, the SDK on it, and what tests look at behind its back."""

    app: FastAPI
    http: httpx.Client
    client: OpenAI
    other: OpenAI
    database: Database
    key: str
    settings: Settings
    bell: QuietBell

    def upload(self, rows: int = 12, name: str = "train.jsonl", purpose: Any = "fine-tune") -> str:
        return self.client.files.create(file=(name, chat_rows(rows)), purpose=purpose).id

    def job(self, **more: Any) -> Any:
        given = {"model": "gpt-4o-mini-2024-07-18", "training_file": more.pop("training_file", None) or self.upload()}
        return self.client.fine_tuning.jobs.create(**given | more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.http.post(path, **more)

    def claim(self) -> JobRecord:
        """What a trainer does first."""
        with self.database.transaction() as tx:
            job = jobs.claim(tx, base=self.settings.base_name, worker="test", lease_seconds=60)
        assert job is not None
        return job

    def checkpoint(self, job: JobRecord, step: int) -> str:
        """What a trainer does at an epoch's end; the checkpoint's model name."""
        with self.database.transaction() as tx:
            made = publish.checkpoint(
                tx,
                job,
                job.fence,
                adapter_id=f"adapter-{job.id[-8:]}-{step}",
                state_prefix=f"states/{job.id}/{step}",
                step=step,
                epoch=step,
                metrics={"step": step, "train_loss": 1.5},
            )
        assert made is not None
        return made.model_name

    def finalize(self, job: JobRecord, step: int = 9) -> JobRecord:
        """What a trainer does last."""
        csv = b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.5,0.9,,\n"
        result = publish.ResultFile(id=f"file-result{job.id[-8:]}", bytes=len(csv), sha256="0" * 64)
        self.app.state.parts.store.put_bytes(result.object_key, csv)
        with self.database.transaction() as tx:
            publish.finalize(
                tx,
                job,
                job.fence,
                adapter_id=f"adapter-{job.id[-8:]}-final",
                state_prefix=None,
                step=step,
                epoch=3,
                metrics={"step": step, "train_loss": 0.5},
                trained_tokens=1234,
                result_csv=result,
            )
            found = jobs.find(tx, job.id)
        assert found is not None
        return found

    def succeed(self, **more: Any) -> Any:
        """A job taken to its end."""
        created = self.job(**more)
        done = self.finalize(self.claim())
        with self.database.transaction() as tx:
            assert publish.succeed(tx, done.id)
        return self.client.fine_tuning.jobs.retrieve(created.id)

    def model(self, name: str, adapter_id: str, project: str = "proj_default") -> str:
        """A ready model that no job of this test made."""
        job = self.job()
        with self.database.transaction() as tx:
            models.register(
                tx,
                name=name,
                project_id=project,
                job_id=job.id,
                base=self.settings.base_name,
                adapter_id=adapter_id,
                state=ModelState.READY,
            )
        return name


def chat_rows(count: int) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"Question {n}"}, {"role": "assistant", "content": f"Answer {n}"}]}
        for n in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A database file with two projects and a key for each."""
    path = tmp_path_factory.mktemp("service") / "template.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    with database.transaction() as tx:
        key = keys.create(tx, keys.ensure_default_project(tx, "rootstock"), "test")
        tx.exec_driver_sql(f"INSERT INTO projects VALUES ('{OTHER_PROJECT}', 'rootstock', 'Other', 0)")
        other = keys.create(tx, OTHER_PROJECT, "other")
    database.close()
    return path, key, other


@pytest.fixture
def settings(tmp_path: Path, migrated: tuple[Path, str, str]) -> Settings:
    shutil.copyfile(migrated[0], tmp_path / "rootstock.db")
    return Settings.from_env({}, data_dir=tmp_path, sweep_seconds=3600.0, engine_wait_seconds=0.0)


@pytest.fixture
def vllm() -> FakeVllm:
    return FakeVllm()


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Where the servers of models are found, whatever their names."""
    found = Network()
    with served(found) as url:
        found.url = url
        OWN_SERVERS.add(urlsplit(url).port or 0)
        yield found


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as running:
        yield running


@pytest.fixture(scope="session")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The routes are built once; each test puts parts of its own behind them."""
    return create_app(Settings.from_env({}, data_dir=tmp_path_factory.mktemp("app")))


@pytest.fixture
def make_api(
    settings: Settings,
    migrated: tuple[Path, str, str],
    vllm: FakeVllm,
    network: Network,
    shared_app: FastAPI,
    portal: BlockingPortal,
) -> Iterator[Callable[..., Api]]:
    """The API with some settings changed; its vLLM is the fake one, nothing runs in the background."""
    databases: list[Database] = []
    upstreams: list[Upstream] = []

    def start(**changes: Any) -> Api:
        chosen = settings.with_values(**{"vllm_url": "http://vllm", **changes})
        database = Database(chosen.effective_database_url)
        databases.append(database)
        store, bell = open_store(chosen), QuietBell()
        bell_part = cast(Bell, bell)
        sweep = Sweep(database, store, bell_part, chosen)
        upstream = Upstream(chosen, network.to(vllm))
        upstreams.append(upstream)
        limits = Limits(chosen, redis_url=None)
        shared_app.state.parts = Parts(
            chosen, database, store, bell_part, sweep, upstream, Outbound(), limits, Meter(database), Sampler(database)
        )
        transport = AppTransport(shared_app, portal)
        _, key, other = migrated
        http = httpx.Client(transport=transport, base_url="http://test", headers={"Authorization": f"Bearer {key}"})
        return Api(shared_app, http, sdk(key, transport), sdk(other, transport), database, key, chosen, bell)

    yield start
    for upstream in upstreams:
        portal.call(upstream.aclose)
    for database in databases:
        database.close()
    shared_app.state.parts.python.close()


def sdk(key: str, transport: httpx.BaseTransport) -> OpenAI:
    return OpenAI(api_key=key, base_url="http://test/v1", max_retries=0, http_client=httpx.Client(transport=transport))


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The app behind a real socket; its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        ready = threading.Event()
        started = server.startup

        async def startup(sockets: Any = None) -> None:
            await started(sockets)
            ready.set()

        server.startup = startup  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert ready.wait(20)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)
