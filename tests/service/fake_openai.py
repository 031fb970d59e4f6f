"""OpenAI as an importer meets it: pages, objects as the live service sends them, and its bad days. Nothing is trained.

The real one cannot be had in a test, and its bad days (rate limits, cut connections) could not be ordered anyway.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-source"
LARGEST_PAGE = 2


def error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return JSONResponse(body, status_code=status, headers=headers)


def file_object(file_id: str, content: bytes, **more: Any) -> dict[str, Any]:
    given = {"object": "file", "bytes": len(content), "created_at": 1_700_000_000, "expires_at": None}
    given |= {"filename": "train.jsonl", "purpose": "fine-tune", "status": "processed", "status_details": None}
    return {"id": file_id} | given | more


def job_object(job_id: str, training_file: str, **more: Any) -> dict[str, Any]:
    """As the live service answers for a supervised job that succeeded, its null and empty fields included."""
    numbers = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8}
    given: dict[str, Any] = {
        "object": "fine_tuning.job",
        "model": "gpt-4o-mini-2024-07-18",
        "created_at": 1_700_000_100,
        "finished_at": 1_700_000_900,
        "fine_tuned_model": f"ft:gpt-4o-mini-2024-07-18:acme:mail:{job_id[-8:]}",
        "organization_id": "org-acme",
        "result_files": [],
        "status": "succeeded",
        "validation_file": None,
        "training_file": training_file,
        "hyperparameters": numbers,
        "trained_tokens": 4321,
        "error": {},
        "user_provided_suffix": "mail",
        "seed": 7,
        "estimated_finish": None,
        "integrations": [],
        "metadata": None,
        "usage_metrics": None,
        "shared_with_openai": False,
        "method": {"type": "supervised", "supervised": {"hyperparameters": numbers}},
    }
    return {"id": job_id} | given | more


@dataclass
class FakeOpenAI:
    """Fill it, set its bad days, read what was asked."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    has_evals: bool = True
    asked: list[str] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)  # given first, instead of what was asked for
    cuts: dict[str, int] = field(default_factory=dict)  # file id -> how often its content breaks off
    stalls: set[str] = field(default_factory=set)  # ids of files whose content stops half-way and never ends
    headers: dict[str, str] = field(default_factory=dict)  # of the last request

    def add_file(self, file_id: str, content: bytes | None, **more: Any) -> str:
        self.files[file_id] = file_object(file_id, content or b"x" * 100, **more)
        if content is not None:
            self.contents[file_id] = content
        return file_id

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])])

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        self.asked.append(f"{request.method} {path}")
        self.headers = dict(request.headers)
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return error(401, "Incorrect API key provided: sk-wr***ng.", "invalid_api_key")
        if self.answers:
            return self.answers.pop(0)
        if path == "/v1/evals" and request.method == "POST" and self.has_evals:
            made = {"id": f"eval_new{len(self.evals)}", "object": "eval", "created_at": 1} | await request.json()
            self.evals.append(made)
            return JSONResponse(made, status_code=201)
        return self._get(request, path) if request.method == "GET" else error(404, f"Invalid URL (POST {path})")

    def _get(self, request: Request, path: str) -> Response:
        lists = {"/v1/files": list(self.files.values()), "/v1/fine_tuning/jobs": self.jobs}
        if self.has_evals:
            lists["/v1/evals"] = self.evals
        if path in lists:
            return _page(lists[path], request)
        if path == "/v1/models":
            return JSONResponse({"object": "list", "data": []})
        if path.endswith("/content"):
            return self._content(path.split("/")[-2])
        for thing in [*lists["/v1/files"], *self.jobs, *self.evals]:
            if self.has_evals and path.endswith(f"/{thing['id']}"):
                return JSONResponse(thing)
        return error(404, f"Invalid URL (GET {path})")

    def _content(self, file_id: str) -> Response:
        if file_id not in self.files:
            return error(404, f"No such File object: {file_id}")
        if self.files[file_id]["purpose"] == "user_data":
            return error(400, "Not allowed to download files of purpose: user_data")
        if file_id not in self.contents:
            return error(404, f"No such File object: {file_id}")
        content = self.contents[file_id]
        if self.cuts.get(file_id, 0):
            self.cuts[file_id] -= 1
            return StreamingResponse(_broken(content), headers={"content-length": str(len(content))})
        if file_id in self.stalls:
            return StreamingResponse(_stalled(content), headers={"content-length": str(len(content))})
        return StreamingResponse(_pieces(content), media_type="application/octet-stream")


def _page(things: list[dict[str, Any]], request: Request) -> Response:
    ids = [thing["id"] for thing in things]
    after = request.query_params.get("after")
    start = ids.index(after) + 1 if after is not None else 0
    end = start + min(LARGEST_PAGE, int(request.query_params.get("limit", "20")))
    return JSONResponse({"object": "list", "data": things[start:end], "has_more": end < len(things)})


def _pieces(content: bytes) -> Iterator[bytes]:
    yield from (content[start : start + 65536] for start in range(0, len(content), 65536))


async def _broken(content: bytes) -> AsyncIterator[bytes]:
    yield content[: len(content) // 2]
    raise ConnectionAbortedError("the fake cuts the connection")


async def _stalled(content: bytes) -> AsyncIterator[bytes]:
    yield content[: len(content) // 2]
    await asyncio.sleep(600)
