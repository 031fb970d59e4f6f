"""Distillations whose teacher is another server: asked with its key, never inside our network, missed without loss."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rootstock import tables
from tests.service.conftest import Api, served
from tests.service.test_distillations import PATH, Work, answers, inline, look, prompt, work

__all__ = ["work"]  # a fixture

KEY = "sk-teacher-secret-0123456789"


class Teacher:
    """Somebody's OpenAI-compatible server, with the statuses that it is given first."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.always: int | None = None
        self.asked: list[tuple[str | None, dict[str, Any]]] = []

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append((request.headers.get("authorization"), body))
        status = self.always or (self.statuses.pop(0) if self.statuses else 200)
        if status != 200:
            return JSONResponse({"error": {"message": "secrets of the network"}}, status, {"retry-after": "0"})
        text = f"Foreign answer to {body['messages'][-1]['content']}"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
        return JSONResponse({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage})


@pytest.fixture
def teacher() -> Teacher:
    return Teacher()


@pytest.fixture
def foreign(teacher: Teacher, make_api: Callable[..., Api]) -> Iterator[tuple[Api, dict[str, Any]]]:
    """The API where foreign teachers may be on this machine, and one that is."""
    with served(teacher.app()) as url:
        api = make_api(webhook_allowed_networks="127.0.0.0/8", batch_concurrency=1)
        yield api, {"model": "large", "base_url": f"{url}/v1", "api_key": KEY, "temperature": 0.5}


@pytest.mark.integration
def test_a_foreign_teacher_is_asked_with_its_key_which_is_never_shown(
    foreign: tuple[Api, dict[str, Any]], teacher: Teacher, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqlalchemy")  # what ROOTSTOCK_LOG_LEVEL=debug shows
    api, who = foreign
    teacher.statuses = [503, 429, 400]
    made = inline(api, ["a", "b"], teacher=who)
    assert made["teacher"] == {"model": "large", "external": True, "base_url": who["base_url"]}
    work(api)
    run = look(api, made)
    assert run["counts"]["outcomes"] == {"teacher_error": 1, "kept": 1}
    assert answers(api, run) == {"b": "Foreign answer to b"}
    assert {key for key, _ in teacher.asked} == {f"Bearer {KEY}"} and len(teacher.asked) == 4
    assert teacher.asked[0][1] == {"model": "large", "temperature": 0.5, "messages": prompt("a")["messages"]}
    assert run["usage"]["total_tokens"] == 15
    assert api.get("/v1/rootstock/usage", params={"group_by": "none"}).json()["data"][0]["requests"] == 0
    shown = json.dumps([made, run, api.get(PATH).json(), api.client.files.content(run["provenance_file"]).text])
    assert KEY not in shown and KEY not in caplog.text
    with api.database.read() as tx:
        row = tx.execute(sa.select(tables.distillations)).one()
    assert row.teacher_key is None and KEY not in str(row) and "network" not in str(row)


@pytest.mark.integration
@pytest.mark.parametrize("status", [401, 500])
def test_a_teacher_that_is_gone_ends_it_with_what_there_is(
    foreign: tuple[Api, dict[str, Any]], teacher: Teacher, work: Work, status: int
) -> None:
    api, who = foreign
    teacher.statuses = [200, *[status] * 8]
    made = inline(api, ["a", "b", "c"], teacher=who)
    work(api)
    run = look(api, made)
    assert (run["status"], run["stopped_by"], run["counts"]["kept"]) == ("completed", "teacher", 1)
    assert run["error"]["code"] == "teacher_unavailable" and str(status) in run["error"]["message"]
    teacher.always = status
    made = inline(api, ["a"], teacher=who)
    work(api)
    failed = look(api, made)
    assert (failed["status"], failed["training_file"]) == ("failed", None)
    assert failed["counts"]["outcomes"] == {"not_asked": 1}
    with api.database.read() as tx:
        assert tx.scalars(sa.select(tables.distillations.c.teacher_key)).all() == [None, None]


@pytest.mark.integration
def test_a_name_that_leads_into_our_network_is_not_asked(
    foreign: tuple[Api, dict[str, Any]], teacher: Teacher, work: Work, make_api: Callable[..., Api]
) -> None:
    _, who = foreign
    closed = make_api()
    made = inline(closed, ["a"], teacher=who | {"base_url": "https://localhost/v1"})
    work(closed)
    assert look(closed, made)["error"]["code"] == "teacher_unavailable" and teacher.asked == []
