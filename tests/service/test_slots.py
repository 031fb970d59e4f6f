"""Requests of one project at a time: how many are let in, and that every end of one makes room for another."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from rootstock.errors import RateLimited
from rootstock.records import Caller
from rootstock.settings import Settings
from service.app import create_app
from service.slots import Slots
from tests.service.conftest import Api, served
from tests.service.fake_vllm import FakeVllm, refusal
from tests.waiting import eventually

HELLO: Any = [{"role": "user", "content": "Hi"}]
CALLER = Caller("proj_a", "acme", "key_a", "owner")


def chat(api: Api, **body: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO} | body)


OTHER = Caller("proj_b", "acme", "key_b", "owner")


def test_a_project_has_so_many_slots_and_gets_them_back():
    slots = Slots(2)
    with slots.one(CALLER, "m"):
        with slots.one(CALLER, "m"), slots.one(OTHER, "m"):
            with pytest.raises(RateLimited) as caught, slots.one(CALLER, "m" * 999):
                pass
            assert caught.value.retry_after_seconds == 1 and len(caught.value.message) < 500
        with pytest.raises(ZeroDivisionError), slots.one(CALLER, "m"):
            raise ZeroDivisionError
        with slots.one(CALLER, "m"):
            pass
    unlimited = Slots(0)
    with contextlib.ExitStack() as held:
        for _ in range(1000):
            held.enter_context(unlimited.one(CALLER, "m"))


@pytest.mark.parametrize("stream", [False, True])
def test_every_end_of_a_request_gives_its_slot_back(make_api: Callable[..., Api], vllm: FakeVllm, stream: bool):
    api = make_api(concurrent_requests=1, requests_per_minute=6)
    ends: list[tuple[dict[str, Any], dict[str, Any], int]] = [
        ({}, {}, 200),
        ({"model": "ft:absent"}, {}, 404),
        ({}, {"refuse": refusal(400, "no")}, 400),
        ({}, {"refuse": refusal(500, "no")}, 503),
        ({}, {"error_after": 1}, 200),
        ({}, {"refuse": None}, 200),
        ({}, {}, 429),
    ]
    for body, faults, status in ends:
        vllm.refuse = vllm.error_after = None
        for name, value in faults.items():
            setattr(vllm, name, value)
        answer = chat(api, stream=stream, **body)
        assert answer.status_code == status, (body, faults, answer.text)
    assert answer.json()["error"]["message"].count("requests per min") == 1


@pytest.fixture
def crowded(settings: Settings, migrated: tuple[Path, str, str], vllm: FakeVllm) -> Iterator[tuple[OpenAI, OpenAI]]:
    """Clients of two projects, each of which may have two requests under way and ten in a minute."""
    with served(vllm.app()) as engine:
        changes = {"concurrent_requests": 2, "requests_per_minute": 10, "redis_url": "redis://127.0.0.1:1/0"}
        with (
            served(create_app(settings.with_values(vllm_url=engine, **changes))) as url,
            contextlib.ExitStack() as held,
        ):
            mine, other = (
                held.enter_context(OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)) for key in migrated[1:]
            )
            yield mine, other


def opened(client: OpenAI) -> Any:
    stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    next(stream)
    return stream


@pytest.mark.integration
def test_more_requests_at_a_time_are_refused_before_the_engine_hears_of_them(
    crowded: tuple[OpenAI, OpenAI], vllm: FakeVllm
):
    mine, other = crowded
    vllm.hang = True
    streams = [opened(mine) for _ in range(2)]
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            mine.chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
        error, headers = caught.value, caught.value.response.headers
        assert (error.type, error.code, error.param) == ("requests", "rate_limit_exceeded", None)
        assert "on concurrent requests: Limit 2, Used 2, Requested 1. Please try again in 1s." in str(error)
        assert headers["retry-after"] == "1" and "x-should-retry" not in headers
    assert len(vllm.received) == 2
    opened(other).close()  # another project's slots are its own
    streams.pop().close()
    streams.append(eventually(lambda: opened_or_none(mine)))
    # What was refused has used up nothing of the minute, except in the moments until the slot was back.
    for stream in streams:
        stream.close()
    eventually(lambda: vllm.running == 0)


def opened_or_none(client: OpenAI) -> Any:
    try:
        return opened(client)
    except openai.RateLimitError:
        return None


@pytest.mark.integration
@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_hang_up_give_their_slots_back(crowded: tuple[OpenAI, OpenAI], vllm: FakeVllm, stream: bool):
    mine, _ = crowded
    vllm.stall = True
    for _ in range(3):
        with pytest.raises(openai.APITimeoutError):
            mine.with_options(timeout=0.3).chat.completions.create(model="gpt-4o", messages=HELLO, stream=stream)
        eventually(lambda: vllm.running == 0)
    vllm.stall = False
    vllm.hang = stream
    for _ in range(3):
        eventually(lambda: opened_or_none(mine)).close()
        eventually(lambda: vllm.running == 0)


@pytest.mark.integration
def test_who_has_one_slot_may_ask_again_as_soon_as_the_answer_is_there(
    settings: Settings, migrated: tuple[Path, str, str], vllm: FakeVllm
):
    with served(vllm.app()) as engine:
        chosen = settings.with_values(vllm_url=engine, concurrent_requests=1, redis_url="redis://127.0.0.1:1/0")
        with served(create_app(chosen)) as url, OpenAI(base_url=f"{url}/v1", api_key=migrated[1], max_retries=0) as sdk:
            for _ in range(20):
                assert list(sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
                assert sdk.chat.completions.create(model="gpt-4o", messages=HELLO).choices
