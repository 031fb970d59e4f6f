"""No replica of vLLM can be asked for a while: requests wait for one, and none is handed to many."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service import replicas
from service.connections import Locate
from tests.conftest import OWN_SERVERS
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, by_host, refusal
from tests.service.network import Network, Servers
from tests.waiting import eventually

ASK: Any = {"model": "rootstock-tiny", "messages": [{"role": "user", "content": "Hi"}]}
NOBODY = ("127.0.0.1", 1)


class Pair(FakeVllm):
    """Two replicas by their host names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = FakeVllm(), FakeVllm()

    def app(self) -> Any:
        return by_host({"one": self.one, "two": self.two})


@pytest.fixture
def vllm() -> Pair:
    return Pair()


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Hosts where nobody listens, as while a process starts again."""
    hosts: set[str] = set()
    OWN_SERVERS.add(NOBODY[1])  # where a unit test may knock
    real = Network.to

    def to(self: Network, servers: Servers) -> Locate:
        find = real(self, servers)
        return lambda host, port: NOBODY if host in hosts else find(host, port)

    monkeypatch.setattr(Network, "to", to)
    monkeypatch.setattr(replicas, "LOOK_SECONDS", 0.02)
    return hosts


@pytest.fixture
def api(down: set[str], make_api: Callable[..., Api]) -> Api:
    return make_api(vllm_url="http://one:8001,http://two:8001", engine_wait_seconds=30.0)


def ask(api: Api, **more: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json=ASK | more)


@pytest.mark.parametrize("stream", [False, True])
def test_requests_wait_for_the_first_replica_that_is_back(api: Api, vllm: Pair, down: set[str], stream: bool) -> None:
    down |= {"one", "two"}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, api, stream=stream) for _ in range(4)]
        time.sleep(0.3)
        assert not any(one.done() for one in asked)
        down.remove("two")
        answers = [one.result(20) for one in asked]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(vllm.two.received) == 4 and not vllm.one.received


def test_a_request_that_was_under_way_where_it_died_is_asked_again_when_one_is_back(
    api: Api, vllm: Pair, down: set[str]
) -> None:
    down.add("two")

    def die(_: Any) -> Any:
        down.add("one")
        vllm.one.refuse_some = lambda _: None
        return refusal(500, "EngineCore encountered an issue")

    vllm.one.refuse_some = die
    threading.Timer(0.3, down.clear).start()
    assert ask(api).status_code == 200
    assert len(vllm.one.received) + len(vllm.two.received) == 2


def test_a_request_that_kills_who_reads_it_is_handed_to_two_and_no_more(api: Api, vllm: Pair) -> None:
    for one in (vllm.one, vllm.two):
        one.refuse = refusal(500, "EngineCore encountered an issue")
    assert ask(api).status_code == 503
    assert len(vllm.one.received) + len(vllm.two.received) == 2


def test_nobody_waits_for_longer_than_was_set(make_api: Callable[..., Api], vllm: Pair, down: set[str]) -> None:
    api = make_api(vllm_url="http://one:8001,http://two:8001", engine_wait_seconds=0.3)
    down |= {"one", "two"}
    began = time.monotonic()
    answer = ask(api)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
    assert time.monotonic() - began >= 0.3


def test_a_model_that_is_still_loading_is_not_waited_for(api: Api, vllm: Pair, down: set[str]) -> None:
    down.add("two")
    vllm.one.refuse = refusal(503, "starting")
    assert ask(api).status_code == 503


def test_a_sick_replica_is_looked_at_often_while_somebody_waits(
    api: Api, vllm: Pair, down: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.routing.FIRST_PAUSE_SECONDS", 3600.0)  # whoever is ejected now is not due today
    down |= {"one", "two"}
    fleet = api.app.state.parts.upstream.fleet("rootstock-tiny")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, api)
        eventually(lambda: not any(one.health.healthy for one in fleet._replicas.values()))
        down.clear()
        assert asked.result(20).status_code == 200
