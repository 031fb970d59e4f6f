"""A fake OpenAI, the real app and a folder between them: what `rootstock import openai` is tried on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal
from openai import OpenAI

from rootstock import keys
from rootstock.cli.importing import Wanted, import_all
from tests.service.conftest import Api, AppTransport, chat_rows, sdk
from tests.service.fake_openai import KEY, FakeOpenAI, job_object

SOURCE, TARGET = "source.test", "target.test"
TRAIN, VALID = chat_rows(12), chat_rows(11)
RESULTS = b"c3RlcAo="


class Killed(BaseException):
    """The process dies: nothing catches this, nothing is tidied by it."""


class Network(httpx.BaseTransport):
    """Hosts by name. `kill_*` number the request at which the client dies, `lose_next` names an answer,
    `limits` holds what is answered once instead."""

    def __init__(self, hosts: dict[str, httpx.BaseTransport]) -> None:
        self.hosts = hosts
        self.sent: list[str] = []
        self.keys: list[str] = []
        self.limits: dict[str, int] = {}
        self.kill_before = self.kill_after = 0
        self.lose_next = ""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(f"{request.method} {request.url.host}{request.url.path}")
        if request.method == "POST":
            self.keys.append(request.headers["idempotency-key"])
        if len(self.sent) == self.kill_before:
            raise Killed
        if self.sent[-1] in self.limits:
            status = self.limits.pop(self.sent[-1])
            return httpx.Response(status, headers={"retry-after": "4"}, json={"error": {"message": "Not now"}})
        answer = self.hosts[request.url.host].handle_request(request)
        answer.read()
        if len(self.sent) == self.kill_after:
            raise Killed
        if self.sent[-1] == self.lose_next:
            self.lose_next = ""
            raise httpx.ReadError("connection lost", request=request)
        return answer


@dataclass
class World:
    """A source, a target with a project of its own, and a folder between them."""

    openai: FakeOpenAI
    network: Network
    client: OpenAI
    folder: Path
    wanted: Wanted
    slept: list[float]

    def run(self, **changes: Any) -> int:
        return import_all(replace(self.wanted, **changes))

    def report(self) -> dict[str, dict[str, Any]]:
        return {item["id"]: item for item in json.loads((self.folder / "report.json").read_text())["items"]}

    def recipe(self, job_id: str) -> dict[str, Any]:
        recipe: dict[str, Any] = json.loads((self.folder / "recipes" / f"{job_id}.json").read_text())
        return recipe

    def arrived(self) -> dict[str, bytes]:
        """Name -> content of every file at the target; fails when two share a name."""
        there = list(self.client.files.list())
        assert len({file.filename for file in there}) == len(there)
        return {file.filename: self.client.files.content(file.id).read() for file in there}

    def posts(self) -> list[str]:
        return [line for line in self.network.sent if line.startswith(f"POST {TARGET}")]


def fill(openai: FakeOpenAI) -> None:
    """A little of everything that a team has."""
    openai.add_file("file-train", TRAIN)
    openai.add_file("file-valid", VALID, filename="valid.jsonl")
    openai.add_file("file-evals", b'{"item":{"q":1}}\n', filename="evals.jsonl", purpose="evals")
    openai.add_file("file-gone", None, filename="old.jsonl")
    openai.add_file("file-picture", b"PNG", filename="a.png", purpose="vision")
    openai.add_file("file-private", b"%PDF", filename="b.pdf", purpose="user_data")
    # The listing counts the bytes of the CSV, the content is its base64 form.
    openai.add_file("file-result", RESULTS, filename="step_metrics.csv", purpose="fine-tune-results", bytes=5)
    grader = {"type": "string_check", "name": "same", "input": "x", "reference": "x", "operation": "eq"}
    reinforcement = {"grader": grader, "hyperparameters": {"n_epochs": 1, "reasoning_effort": "low", "x": None}}
    openai.jobs += [
        job_object("ftjob-first1", "file-train", validation_file="file-valid", result_files=["file-result"]),
        job_object("ftjob-failed", "file-train", status="failed", fine_tuned_model=None, metadata={"team": "mail"}),
        job_object("ftjob-nofile", "file-deleted"),
        job_object("ftjob-lost12", "file-gone"),
        job_object(
            "ftjob-graded", "file-gone", method={"type": "reinforcement", "reinforcement": reinforcement}, seed=1
        ),
    ]
    schema = {"type": "object", "properties": {"item": {"type": "object", "properties": {"q": {"type": "integer"}}}}}
    openai.evals.append(
        {
            "id": "eval_one",
            "object": "eval",
            "name": "Sums",
            "created_at": 1,
            "data_source_config": {"type": "custom", "schema": schema, "metadata": None},
            "testing_criteria": [grader | {"id": "same-123"}],
            "metadata": {},
        }
    )


@pytest.fixture
def make_world(api: Api, portal: BlockingPortal, tmp_path: Path) -> Callable[[], World]:
    made = 0
    app = AppTransport(api.app, portal)

    def make() -> World:
        nonlocal made
        made += 1
        with api.database.transaction() as tx:
            tx.exec_driver_sql(f"INSERT INTO projects VALUES ('proj_{made}', 'rootstock', 'Import', 0)")
            key = keys.create(tx, f"proj_{made}", "import")
        openai, slept = FakeOpenAI(), list[float]()
        fill(openai)
        network = Network({SOURCE: AppTransport(openai.app(), portal), TARGET: WithoutEvals(app)})
        folder = tmp_path / f"export-{made}"
        wanted = Wanted(
            api_key=KEY,
            headers={"OpenAI-Organization": "org-acme", "OpenAI-Project": None},
            from_url=f"http://{SOURCE}",
            from_folder=None,
            folder=folder,
            to=f"http://{TARGET}/v1/",
            to_key=key,
            settings=api.settings,
            export_only=False,
            apply=True,
            run_jobs=False,
            transport=network,
            sleep=slept.append,
        )
        return World(openai, network, sdk(key, app), folder, wanted, slept)

    return make


@pytest.fixture
def world(make_world: Callable[[], World]) -> World:
    return make_world()


class WithoutEvals(httpx.BaseTransport):
    """Our app as it is before it has an evals API, whether it has one by now or not."""

    def __init__(self, app: httpx.BaseTransport) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/evals":
            return httpx.Response(404, json={"error": {"message": "Invalid URL (GET /v1/evals)"}})
        return self._app.handle_request(request)
