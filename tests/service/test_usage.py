"""`/v1/rootstock/usage`: everything that was asked of a model counts once, under its name, for its project alone."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from rootstock import usage
from rootstock.settings import Settings
from rootstock.usage import Amounts, Key
from service.app import create_app
from service.meter import Meter
from tests.service.conftest import Api, served
from tests.service.fake_vllm import CONTEXT_FULL, FakeVllm, refusal
from tests.waiting import eventually

HELLO: Any = [{"role": "user", "content": "Hi"}]
PATH = "/v1/rootstock/usage"
NOWHERE = "redis://127.0.0.1:1/0"


def today() -> date:
    return datetime.now(UTC).date()


def report(api: Api, **query: Any) -> Any:
    api.app.state.parts.meter.flush()
    answer = api.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def counts(row: Any) -> tuple[int, int, int, int]:
    return row["requests"], row["failed_requests"], row["prompt_tokens"], row["completion_tokens"]


def used(api: Api) -> dict[str, tuple[int, int, int, int]]:
    """Today's requests, failed ones, prompt and completion tokens of each model."""
    return {row["model"]: counts(row) for row in report(api, group_by="model")["data"]}


def chat(api: Api, model: str = "gpt-4o", **body: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json={"model": model, "messages": HELLO} | body)


@pytest.mark.parametrize("stream", [False, True])
def test_every_way_to_ask_counts_under_the_name_that_was_asked_for(api: Api, stream: bool):
    tuned = api.model("ft:gpt-4o-mini-2024-07-18:rootstock:tune:abcdefgh", "adapter-tuned-1")
    for model in ("gpt-4o", tuned, tuned):
        assert chat(api, model, stream=stream).status_code == 200
    body = {"model": "rootstock-tiny", "prompt": "Once", "stream": stream}
    assert api.post("/v1/completions", json=body).status_code == 200
    assert used(api) == {"gpt-4o": (1, 0, 5, 3), tuned: (2, 0, 10, 6), "rootstock-tiny": (1, 0, 5, 3)}


def test_a_judge_counts_for_whose_grader_asks_it(api: Api, vllm: FakeVllm):
    vllm.words = ('{"steps": [], "result": 7.0}',)
    score: Any = {
        "type": "score_model",
        "name": "taste",
        "model": "gpt-4o-mini",
        "input": [{"role": "user", "content": "Rate {{ sample.output_text }}"}],
        "range": [0, 10],
    }
    assert api.client.fine_tuning.alpha.graders.run(grader=score, model_sample="x").reward == 7
    assert used(api) == {"gpt-4o-mini": (1, 0, 5, 1)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("refused", [refusal(400, CONTEXT_FULL), refusal(503, "starting")])
def test_a_refusal_of_the_engine_is_a_request_that_failed(api: Api, vllm: FakeVllm, refused: Any, stream: bool):
    chat(api)
    vllm.refuse = refused
    assert chat(api, stream=stream).status_code >= 400
    assert used(api) == {"gpt-4o": (2, 1, 5, 3)}


def test_a_stream_that_breaks_has_failed_and_what_came_until_then_counts(api: Api, vllm: FakeVllm):
    vllm.error_after = 3
    chat(api, stream=True)
    assert used(api) == {"gpt-4o": (1, 1, 5, 2)}


def test_what_never_reached_a_model_counts_nothing(make_api: Callable[..., Api]):
    api = make_api(requests_per_minute=3)
    assert chat(api, "ft:absent").status_code == 404
    assert chat(api, temperature=9).status_code == 400
    assert chat(api, "x" * 100_000, stream=True).status_code == 404
    assert [chat(api).status_code for _ in range(2)] == [200, 429]
    assert used(api) == {"gpt-4o": (1, 0, 5, 3)}


def test_a_project_sees_its_own(api: Api):
    api.other.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert report(api)["data"] == []
    answer = api.other.get("/rootstock/usage", cast_to=httpx.Response)
    assert [counts(row) for row in answer.json()["data"]] == [(1, 0, 5, 3)]
    assert api.get(PATH, headers={"Authorization": "Bearer sk-x"}).status_code == 401


@pytest.fixture
def past(api: Api) -> Api:
    """Two days of January with two models."""
    with api.database.transaction() as tx:
        for day in ("2026-01-01", "2026-01-02"):
            one = Amounts(2, 1, 10, 4)
            usage.add(tx, {Key("proj_default", day, "gpt-4o"): one, Key("proj_default", day, "ft:a:b::c"): one})
    return api


def test_the_whole_answer(past: Api):
    found = report(past, start="2026-01-02", end="2026-01-31")
    row = {"object": "rootstock.usage.row", "requests": 2, "failed_requests": 1} | {"day": "2026-01-02"}
    row |= {"prompt_tokens": 10, "completion_tokens": 4}
    assert found == {
        "object": "rootstock.usage",
        "start": "2026-01-02",
        "end": "2026-01-31",
        "data": [row | {"model": "ft:a:b::c"}, row | {"model": "gpt-4o"}],
    }


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ({"group_by": "model"}, [(None, "ft:a:b::c", 4), (None, "gpt-4o", 4)]),
        ({"group_by": "day"}, [("2026-01-01", None, 4), ("2026-01-02", None, 4)]),
        ({"group_by": "none"}, [(None, None, 8)]),
        ({"group_by": "none", "model": "gpt-4o"}, [(None, None, 4)]),
        ({"group_by": "none", "model": "nobody"}, [(None, None, 0)]),
        ({"model": "gpt-4o"}, [("2026-01-01", "gpt-4o", 2), ("2026-01-02", "gpt-4o", 2)]),
        ({"model": "nobody"}, []),
        ({"group_by": ""}, [(f"2026-01-0{day}", name, 2) for day in (1, 2) for name in ("ft:a:b::c", "gpt-4o")]),
    ],
)
def test_rows_are_grouped_and_chosen(past: Api, query: dict[str, str], rows: list[Any]):
    found = report(past, start="2026-01-01", end="2026-01-02", **query)["data"]
    assert [(row["day"], row["model"], row["requests"]) for row in found] == rows


def test_left_out_days_mean_the_last_thirty(api: Api):
    now = today()
    assert (report(api)["start"], report(api)["end"]) == (str(now - timedelta(days=29)), str(now))
    assert report(api, end="2026-01-30")["start"] == "2026-01-01"
    assert report(api, start=str(now - timedelta(days=3)))["end"] == str(now)
    assert report(api, end="0001-01-05")["start"] == "0001-01-01"
    assert report(api, start="2024-01-01", end="2024-12-31")["data"] == []  # a leap year fits


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *(({"start": text}, "start") for text in ("2026-1-1", "2026-02-30", "0", "today", "2026-01-01T00:00:00", "\0")),
        ({"start": "\u0662026-01-01"}, "start"),  # a digit, but none of ours
        ({"end": "10000-01-01"}, "end"),
        ({"start": "2026-01-02", "end": "2026-01-01"}, "start"),
        ({"start": "2024-01-01", "end": "2025-01-01"}, "start"),
        ({"start": "9999-12-31"}, "start"),
        ({"group_by": "week"}, "group_by"),
    ],
)
def test_what_is_no_span_of_days_is_refused_by_name(api: Api, query: dict[str, str], param: str):
    answer = api.get(PATH, params=query)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_an_answer_that_would_be_too_long_says_what_to_do(past: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(usage, "MAX_ROWS", 3)
    answer = past.get(PATH, params={"start": "2026-01-01", "end": "2026-01-02"})
    assert answer.status_code == 400 and "fewer days" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("asked", [None, True, False])
def test_a_stream_shows_its_usage_only_where_it_was_asked_for(api: Api, vllm: FakeVllm, path: str, asked: bool | None):
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    said = {"messages": HELLO} if "chat" in path else {"prompt": "Hi"}
    answer = api.post(path, json={"model": "gpt-4o", "stream": True} | said | options)
    assert vllm.received[-1]["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert answer.text.count('"prompt_tokens"') == (1 if asked else 0)
    assert ('"usage"' in answer.text) is bool(asked)


@pytest.fixture
def url(settings: Settings, vllm: FakeVllm) -> Iterator[str]:
    with served(vllm.app()) as engine:
        chosen = settings.with_values(vllm_url=engine, redis_url=NOWHERE, tokens_per_minute=1000)
        with served(create_app(chosen)) as running:
            yield running


@pytest.fixture
def client(url: str, migrated: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=migrated[1], max_retries=0) as sdk:
        yield sdk


def rows(client: OpenAI) -> list[tuple[int, int, int, int]]:
    answer = client.get("/rootstock/usage", cast_to=httpx.Response, options={"params": {"group_by": "model"}})
    return [counts(row) for row in answer.json()["data"]]


@pytest.mark.integration
@pytest.mark.parametrize("plain", [False, True])
def test_a_stream_that_is_cut_off_counts_what_was_generated(client: OpenAI, vllm: FakeVllm, plain: bool):
    vllm.hang = True
    stream: Any
    if plain:
        stream = client.completions.create(model="gpt-4o", prompt="Hi", stream=True)
    else:
        stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    for _ in range(3 if plain else 4):
        next(stream)
    stream.close()
    eventually(lambda: vllm.running == 0)
    eventually(lambda: rows(client) == [(1, 0, 5, 3)])  # written within seconds, by itself
    vllm.hang = False
    asked = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    assert int(asked.headers["x-ratelimit-remaining-tokens"]) == 1000 - 8 - 2  # what it took is in the limit, too


@pytest.mark.integration
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_answer_is_a_request_without_tokens(
    client: OpenAI, vllm: FakeVllm, stream: bool
):
    vllm.stall = True
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=2.0).chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
    eventually(lambda: vllm.running == 0)
    eventually(lambda: rows(client) == [(1, 0, 0, 0)])


@pytest.mark.integration
def test_what_was_counted_last_is_written_when_the_process_stops(
    settings: Settings, migrated: Any, vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("service.reconciler.TICK_SECONDS", 3600.0)
    looked = threading.Event()
    flush = Meter.flush

    def seen(counted: Meter) -> None:
        flush(counted)
        looked.set()

    monkeypatch.setattr(Meter, "flush", seen)
    with served(vllm.app()) as engine:
        chosen = settings.with_values(vllm_url=engine, redis_url=NOWHERE)
        for expected in ([], [(1, 0, 5, 3)]):
            looked.clear()
            with served(create_app(chosen)) as url, OpenAI(base_url=f"{url}/v1", api_key=migrated[1]) as sdk:
                assert looked.wait(60)  # the next look would be in an hour
                sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
                assert rows(sdk) == expected
