"""Several replicas of vLLM behind the API: where adapters go, what happens when one goes, what is kept."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from rootstock.settings import Settings
from service import replicas
from service.replicas import Upstream
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, by_host, refusal
from tests.service.network import Network

HOSTS = ("one", "two", "three")
HELLO: Any = [{"role": "user", "content": "Hi"}]


class Fleet(FakeVllm):
    """Replicas by their host names; one that is gone is away."""

    def __init__(self) -> None:
        super().__init__()
        self.by_host = {host: FakeVllm(door={"resident": [], "cached": [], "max_cpu_loras": 8}) for host in HOSTS}

    def app(self) -> Any:
        return by_host(self.by_host)

    def asked(self, model: str) -> Counter[str]:
        return Counter({h: n for h, f in self.by_host.items() if (n := sum(b["model"] == model for b in f.received))})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "LOOK_SECONDS", 0.02)


@pytest.fixture
def vllm() -> Fleet:
    return Fleet()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(vllm_url="http://one:8001,http://two:8001/v1, http://three:8001")


def tuned(api: Api, number: int) -> tuple[str, str]:
    adapter = f"lora-tuned-{number:04}"
    return api.model(f"ft:tiny:org::{number:08}", adapter), adapter


def ask(api: Api, model: str, **more: Any) -> httpx.Response:
    return api.post("/v1/chat/completions", json={"model": model, "messages": HELLO} | more)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_an_adapter_stays_at_home_and_homes_differ(api: Api, vllm: Fleet) -> None:
    models = [tuned(api, number) for number in range(12)]
    for _ in range(3):
        for name, _adapter in models:
            assert ask(api, name).status_code == 200
    homes = [vllm.asked(adapter) for _, adapter in models]
    assert all(len(home) == 1 and sum(home.values()) == 3 for home in homes)
    assert len({next(iter(home)) for home in homes}) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["gone", "dead engine"])
def test_another_replica_answers_when_the_home_is_away(api: Api, vllm: Fleet, fault: str, stream: bool) -> None:
    name, adapter = tuned(api, 1)
    ask(api, name)
    (home,) = vllm.asked(adapter)
    if fault == "gone":
        vllm.by_host.pop(home)
    else:
        vllm.by_host[home].refuse = refusal(500, "EngineCore encountered an issue")
    for _ in range(4):
        answer = ask(api, name, stream=stream)
        assert answer.status_code == 200 and "rld" in answer.text
    others = set(vllm.asked(adapter)) - {home}
    assert len(others) == 1


def test_another_replica_streams_when_the_home_dies_before_its_first_event(api: Api, vllm: Fleet) -> None:
    # vLLM says 200 and begins the stream before it generates: an engine that is killed then has said nothing yet.
    name, adapter = tuned(api, 1)
    ask(api, name)
    (home,) = vllm.asked(adapter)
    vllm.by_host[home].error_after = 0
    answer = ask(api, name, stream=True)
    assert answer.status_code == 200 and "rld" in answer.text and "error" not in answer.text
    assert len(vllm.asked(adapter)) == 2


def test_a_sick_replica_is_asked_no_more_and_again_once_it_is_well(api: Api, vllm: Fleet) -> None:
    name, adapter = tuned(api, 1)
    ask(api, name)
    (home,) = vllm.asked(adapter)
    lost = vllm.by_host[home]
    lost.healthy, lost.refuse = False, refusal(500, "dead")
    for _ in range(3):
        assert ask(api, name).status_code == 200
    tried = len(lost.received)
    for _ in range(5):
        assert ask(api, name).status_code == 200
    assert len(lost.received) == tried
    lost.healthy, lost.refuse = True, None

    def home_again() -> bool:
        ask(api, name)
        return len(lost.received) > tried

    until(home_again)


def test_a_door_that_answers_for_a_dead_engine_does_not_count(api: Api, vllm: Fleet) -> None:
    name, adapter = tuned(api, 1)
    ask(api, name)
    (home,) = vllm.asked(adapter)
    lost = vllm.by_host[home]
    lost.unwell, lost.refuse = True, refusal(500, "dead")
    fleet = api.app.state.parts.upstream.fleet("rootstock-tiny")

    def given_up() -> bool:
        return any(not replica.health.healthy for replica in fleet._replicas.values())

    until(given_up)
    tried = len(lost.received)
    for _ in range(5):
        assert ask(api, name).status_code == 200
    assert len(lost.received) == tried


def test_one_that_drains_gets_nothing_new(api: Api, vllm: Fleet) -> None:
    name, adapter = tuned(api, 1)
    ask(api, name)
    (home,) = vllm.asked(adapter)
    door = vllm.by_host[home].door
    assert door is not None
    door["draining"] = True

    def elsewhere() -> bool:
        before = vllm.asked(adapter)[home]
        ask(api, name)
        return vllm.asked(adapter)[home] == before

    until(elsewhere)


def test_when_all_are_gone_the_client_may_retry(api: Api, vllm: Fleet) -> None:
    name, _ = tuned(api, 1)
    vllm.by_host.clear()
    for model in (name, "rootstock-tiny"):
        answer = ask(api, model)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "service_unavailable"


@pytest.mark.parametrize("urls", ["http://one:8001", "http://one:8001,http://two:8001"])
def test_an_adapter_that_was_unloaded_just_then_is_asked_for_once_more(
    make_api: Callable[..., Api], vllm: Fleet, urls: str
) -> None:
    api = make_api(vllm_url=urls)
    name, adapter = tuned(api, 1)
    gone = {host: [refusal(404, f"The model `{adapter}` does not exist.")] for host in HOSTS}
    for host, fake in vllm.by_host.items():
        fake.refuse_some = lambda _, host=host: gone[host].pop() if gone[host] else None  # type: ignore[misc]
    gone["two"].clear()
    assert ask(api, name).status_code == 200
    assert 1 <= sum(vllm.asked(adapter).values()) <= 2


def test_the_last_replica_is_asked_once_more_for_what_it_forgot_just_then(api: Api, vllm: Fleet) -> None:
    name, adapter = tuned(api, 1)
    for alive in HOSTS:
        forgotten = [refusal(404, f"The model `{adapter}` does not exist.")]
        for host, fake in vllm.by_host.items():
            fake.refuse = None if host == alive else refusal(500, "EngineCore encountered an issue")
            fake.refuse_some = lambda _, left=forgotten: left.pop() if left else None  # type: ignore[misc]
        answer = ask(api, name)
        if answer.status_code == 200:  # of several that are dead not all are tried
            assert not forgotten
            return
    pytest.fail("no replica that was alive was asked")


def test_a_refusal_of_the_request_itself_is_not_tried_elsewhere(api: Api, vllm: Fleet) -> None:
    name, adapter = tuned(api, 1)
    for fake in vllm.by_host.values():
        fake.refuse = refusal(400, "maximum context length is 8 tokens")
    assert ask(api, name).status_code == 400
    assert sum(vllm.asked(adapter).values()) == 1


def test_hot_adapters_are_kept_at_home_and_come_back_unasked_after_a_restart(api: Api, vllm: Fleet) -> None:
    name, adapter = tuned(api, 1)
    ask(api, name)
    (home,) = vllm.asked(adapter)
    door = vllm.by_host[home].door
    assert door is not None
    until(lambda: door.get("kept") == [adapter])
    assert all(not (fake.door or {}).get("kept") for host, fake in vllm.by_host.items() if host != home)
    gone = vllm.by_host.pop(home)
    until(lambda: ask(api, name).status_code == 200)
    gone.door = {"resident": [], "cached": [], "max_cpu_loras": 8}  # it has started anew
    vllm.by_host[home] = gone
    until(lambda: gone.door.get("kept") == [adapter])


def test_what_is_pinned_is_kept_without_being_asked_for(settings: Settings, vllm: Fleet, network: Network) -> None:
    async def run() -> None:
        chosen = settings.with_values(vllm_url="http://one,http://two")
        upstream = Upstream(chosen, network.to(vllm), pinned=lambda _: ["lora-pinned-0001"])
        assert await upstream.alive()
        async with asyncio.timeout(10):
            while not any((vllm.by_host[host].door or {}).get("kept") for host in ("one", "two")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await upstream.aclose()

    asyncio.run(run())


def test_replicas_are_found_by_name(
    settings: Settings, vllm: Fleet, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        addresses = ["127.0.0.1", "127.0.0.2"]
        port = urlsplit(network.url).port

        async def getaddrinfo(host: str, asked: int, **_: Any) -> list[Any]:
            assert (host, asked) == ("vllm-headless", port)
            return [(2, 1, 6, "", (address, asked)) for address in addresses]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(replicas, "DNS_SECONDS", 0.0)
        vllm.by_host = dict(zip(("127.0.0.1", "127.0.0.2", "127.0.0.3"), vllm.by_host.values(), strict=True))
        upstream = Upstream(settings.with_values(vllm_url=f"dns+http://vllm-headless:{port}"), network.to(vllm))

        async def found(*expected: str) -> None:
            urls = [f"http://{address}:{port}" for address in expected]
            async with asyncio.timeout(10):
                while sorted(upstream.fleet("rootstock-tiny")._replicas) != urls:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        assert await upstream.alive()
        await found("127.0.0.1", "127.0.0.2")
        addresses[:] = ["127.0.0.2", "127.0.0.3"]
        await found("127.0.0.2", "127.0.0.3")
        await upstream.aclose()

    asyncio.run(run())


def test_a_rank_that_a_running_server_would_refuse_is_refused_when_the_job_is_created(api: Api, vllm: Fleet) -> None:
    door = vllm.by_host["two"].door
    assert door is not None
    door["max_lora_rank"] = 8
    name, _ = tuned(api, 1)

    def refused() -> Any:
        ask(api, name)
        body = {"model": "gpt-4o-mini", "training_file": api.upload(), "rootstock": {"adapter": {"rank": 16}}}
        answer = api.post("/v1/fine_tuning/jobs", json=body)
        return answer.json()["error"] if answer.status_code == 400 else None

    error = until(refused)
    assert (
        error["param"] == "rootstock.adapter.rank" and "<= 8, the limit of the running vLLM servers" in error["message"]
    )
    assert api.job(extra_body={"rootstock": {"adapter": {"rank": 8}}}).rootstock["adapter"]["rank"] == 8
