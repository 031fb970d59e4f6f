"""The door of vLLM's server: what is in use is told to the cache, turns are kept, the gateway's wishes are loaded."""

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from rootstock.adapters import put_tree
from rootstock.settings import Settings
from rootstock.storage import LocalStore, open_store
from serving import door
from serving.base import ServedBase
from serving.cache import AdapterCache
from serving.door import Door
from serving.place import Place
from tests.rootstock.adapter_files import write

A, B, C = (f"lora-door-000{number}" for number in (1, 2, 3))


class Models:
    """vLLM's list of loaded adapters, with our cache as its resolver."""

    def __init__(self, cache: AdapterCache) -> None:
        self._cache = cache
        self.lora_requests: dict[str, Any] = {}

    async def resolve_lora(self, name: str) -> Any:
        path = await asyncio.to_thread(self._cache.fetch, name)
        self.lora_requests[name] = SimpleNamespace(lora_name=name, lora_path=str(path))
        return self.lora_requests[name]


class Engine:
    """The application behind the door: resolves the adapter, then answers when it is told to."""

    def __init__(self, models: Models) -> None:
        self.state = SimpleNamespace(openai_serving_models=models)
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.under_way: list[str] = []
        self.disconnected = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] not in ("/v1/completions", "/v1/chat/completions"):
            body = b"elsewhere"
        else:
            name = json.loads((await receive())["body"])["model"]
            models = self.state.openai_serving_models
            if name.startswith("lora-") and name not in models.lora_requests:
                await models.resolve_lora(name)
            self.under_way.append(name)
            await self.go_on.wait()
            self.under_way.remove(name)
            body = name.encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


class House:
    """A door, what is behind it, and a client in front of it."""

    def __init__(self, settings: Settings) -> None:
        self.place = Place(settings)
        self.cache = self.place.cache()
        self.models = Models(self.cache)
        self.engine = Engine(self.models)
        self.door = Door(self.engine, self.place)

        async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            scope["app"] = self.engine
            await self.door(scope, receive, send)

        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://vllm")

    async def ask(self, model: str) -> str:
        return (await self.client.post("/v1/completions", json={"model": model, "prompt": "x"})).text

    async def state(self) -> dict[str, Any]:
        return (await self.client.get("/rootstock/state")).json()

    def on_disk(self) -> list[str]:
        return sorted(entry.adapter_id for entry in self.cache.shelf.entries())


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def settings(tmp_path: Path, base: ServedBase, facts: dict[str, Any]) -> Settings:
    settings = Settings(
        data_dir=tmp_path, base_model=str(base.folder), base_model_name="tiny", max_loras=2, max_cpu_loras=2
    )
    store = open_store(settings)
    assert isinstance(store, LocalStore)
    for name in (A, B, C):
        put_tree(store, name, write(tmp_path / name), **facts)
    return settings


def size(settings: Settings) -> float:
    """What one adapter takes on disk, GiB."""
    house = House(settings)
    asyncio.run(house.ask(A))
    (entry,) = house.cache.shelf.entries()
    house.cache.shelf.close()
    return entry.bytes / 1024**3


def test_what_is_here_is_told(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings)
        assert (await house.state())["resident"] == []
        assert await house.ask(A) == A and await house.ask(B) == B
        state = await house.state()
        assert state["resident"] == [B, A] and sorted(state["cached"]) == [A, B]
        assert state["max_loras"] == 2 and state["running"] == {} and state["draining"] is False
        assert (await house.client.get("/v1/models")).text == "elsewhere"
        assert (await house.client.get("/rootstock/else")).status_code == 404
        assert (await house.client.post("/rootstock/drain")).json()["draining"] is True

    asyncio.run(run())


def test_the_disk_is_bounded_and_vllm_forgets_what_goes(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings.with_values(adapter_cache_gib=2.5 * one))
        for name in (A, B, C):
            await house.ask(name)
        assert house.on_disk() == [B, C] == sorted(house.models.lora_requests)
        assert await house.ask(A) == A  # and comes back
        assert house.on_disk() == [A, C]

    one = size(settings)
    asyncio.run(run())


def test_vllm_asks_anew_for_what_is_not_held(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings)
        await house.ask(A)
        house.cache._used.clear()
        house.cache.shelf.let_go(A)
        assert house.cache.shelf.remove(A) and A in house.models.lora_requests
        assert await house.ask(A) == A
        assert house.on_disk() == [A] and house.cache.holds(A)

    asyncio.run(run())


def test_nothing_goes_under_a_request(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings.with_values(adapter_cache_gib=1.5 * one))
        house.engine.go_on.clear()
        first = asyncio.create_task(house.ask(A))
        await until(lambda: house.engine.under_way == [A])
        second = asyncio.create_task(house.ask(B))
        await until(lambda: len(house.engine.under_way) == 2)
        assert house.on_disk() == [A, B]  # more than allowed, for as long as it is needed
        house.engine.go_on.set()
        assert [await first, await second] == [A, B]
        await house.ask(C)
        assert house.on_disk() == [C]

    one = size(settings)
    asyncio.run(run())


def test_nothing_is_unloaded_under_a_request(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        house = House(settings)

        async def unload(name: str) -> tuple[int, str]:
            reply = await house.client.post("/v1/unload_lora_adapter", json={"lora_name": name})
            return reply.status_code, reply.text

        assert await unload(A) == (404, f'{{"error": "Adapter {A} is not loaded."}}')
        await house.ask(A)
        assert await unload(A) == (200, f'{{"unloaded": "{A}"}}') and A not in house.models.lora_requests
        house.engine.go_on.clear()
        asked = asyncio.create_task(house.ask(A))
        await until(lambda: house.engine.under_way == [A])
        status, said = await unload(A)
        assert status == 409 and "requests under way: 1" in said and A in house.models.lora_requests
        monkeypatch.setattr(door, "UNLOAD_SECONDS", 30.0)
        waits = asyncio.create_task(unload(A))
        await asyncio.sleep(0.05)
        house.engine.go_on.set()
        assert [await asked, (await waits)[0]] == [A, 200] and A not in house.models.lora_requests
        assert (await unload("another"))[1] == "elsewhere"
        assert house.cache.holds(A), "its files stay: vLLM may still have it in memory"

    monkeypatch.setattr(door, "UNLOAD_SECONDS", 0.05)
    asyncio.run(run())


def test_what_vllm_has_evicted_from_memory_is_let_go(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings)
        other = AdapterCache(open_store(settings), house.cache.shelf.folder, house.cache._base, limit=1)
        for name in (A, B, C):
            await house.ask(name)
        assert sorted(house.models.lora_requests) == [B, C]
        assert not other.shelf.make_room(0)
        assert house.on_disk() == [B, C]  # another process may remove only what this one has let go

    asyncio.run(run())


def test_what_a_gateway_wants_kept_is_loaded_unasked_and_stays(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings.with_values(adapter_cache_gib=2.5 * one))
        wish = {"gateway": "g1", "adapters": [A, "not an id", "lora-absent-0001"]}
        answer = (await house.client.put("/rootstock/keep", json=wish)).json()
        assert answer["kept"] == [A, "lora-absent-0001"]
        await until(lambda: A in house.models.lora_requests)
        for name in (B, C, B, C):
            await house.ask(name)
        assert A in house.models.lora_requests and A in house.on_disk()
        await house.client.put("/rootstock/keep", json={"gateway": "g1", "adapters": []})
        for name in (B, C):
            await house.ask(name)
        assert house.on_disk() == [B, C]
        assert (await house.client.put("/rootstock/keep", json=[1])).status_code == 400

    one = size(settings)
    asyncio.run(run())


def test_a_third_adapter_waits_for_a_slot_and_gets_it(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings)
        house.engine.go_on.clear()
        tasks = [asyncio.create_task(house.ask(name)) for name in (A, B)]
        await until(lambda: len(house.engine.under_way) == 2)
        tasks.append(asyncio.create_task(house.ask(C)))
        await asyncio.sleep(0.05)
        assert (await house.state())["waiting"] == 1 and len(house.engine.under_way) == 2
        house.engine.go_on.set()
        assert await asyncio.gather(*tasks) == [A, B, C]
        assert (await house.state())["running"] == {}

    asyncio.run(run())


def test_who_hangs_up_while_waiting_is_forgotten(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings)
        house.engine.go_on.clear()
        tasks = [asyncio.create_task(house.ask(name)) for name in (A, B)]
        await until(lambda: len(house.engine.under_way) == 2)
        messages = [{"type": "http.request", "body": json.dumps({"model": C}).encode(), "more_body": False}]
        left = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            raise AssertionError("nobody listens")

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "app": house.engine}
        waiting = asyncio.create_task(house.door(scope, receive, send))
        await asyncio.sleep(0.05)
        assert (await house.state())["waiting"] == 1
        left.set()
        await waiting
        assert (await house.state())["waiting"] == 0
        assert C not in house.cache.running()
        house.engine.go_on.set()
        assert await asyncio.gather(*tasks) == [A, B]

    asyncio.run(run())


def test_a_base_request_needs_no_turn(settings: Settings) -> None:
    async def run() -> None:
        house = House(settings)
        house.engine.go_on.clear()
        tasks = [asyncio.create_task(house.ask(name)) for name in (A, B, "tiny", "tiny")]
        await until(lambda: len(house.engine.under_way) == 4)
        house.engine.go_on.set()
        assert await asyncio.gather(*tasks) == [A, B, "tiny", "tiny"]

    asyncio.run(run())
