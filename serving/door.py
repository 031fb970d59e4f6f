"""The door of vLLM's API server: every request for an adapter passes it, and `/rootstock/…` is answered at it.

A middleware of vLLM's own server (`--middleware serving.door.Door`). It says which adapter is in use, so that none is
removed or unloaded under a request; lets no adapter wait for ever; loads what the gateway wants kept; and tells the
gateway what is here. Knows vLLM's list of loaded adapters; nothing about public names or users.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from rootstock import ids
from serving import place
from serving.cache import AdapterCache
from serving.identity import IDENTITY_ID
from serving.place import Place
from serving.turns import Turns

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OWN = "/rootstock/"
ANSWERS = frozenset({"/v1/completions", "/v1/chat/completions"})
UNLOAD = "/v1/unload_lora_adapter"
UNLOAD_SECONDS = 5.0
"""So long who wants an adapter unloaded waits for a moment in which no request for it is under way."""

KEEP_SECONDS = 60.0
"""What a gateway wants kept is kept for so long after it last said so."""

LISTED = 4096
"""Adapters on disk that are named to a gateway, the latest used first."""


class Door:
    """See the module. One per API server process."""

    def __init__(self, app: App, here: Place | None = None) -> None:
        self._app = app
        self._place = here or place.of_this_process()
        self._turns: Turns[asyncio.Future[None]] = Turns(self._place.settings.max_loras)
        self._wanted: dict[str, tuple[list[str], float]] = {}  # gateway -> what it wants kept, until when
        self._loading: asyncio.Task[None] | None = None
        self._draining = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["path"].startswith(OWN):
            await self._own(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ANSWERS:
            await self._answer(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"] == UNLOAD:
            await self._unload(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        name = _field(body, "model")
        replay = Replay(body, receive)
        if name == IDENTITY_ID:
            await self._in_turn(name, scope, replay, send)
        elif name is None or not ids.is_adapter_id(name):
            await self._app(scope, replay, send)
        else:
            cache = await self._cache(scope)
            cache.begin(name)
            if not cache.holds(name):
                # vLLM reads files where it last found them, and dies where they are gone: it has to ask for them.
                scope["app"].state.openai_serving_models.lora_requests.pop(name, None)
            try:
                await self._in_turn(name, scope, replay, send)
            finally:
                cache.end(name)

    async def _unload(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        name = _field(body, "lora_name")
        if name is None or not ids.is_adapter_id(name):
            await self._app(scope, Replay(body, receive), send)
            return
        cache, models = await self._cache(scope), scope["app"].state.openai_serving_models
        until = time.monotonic() + UNLOAD_SECONDS
        while name in models.lora_requests:
            if _forget(name, cache, models):
                await _reply(send, 200, {"unloaded": name})
                return
            if time.monotonic() > until:
                count = cache.running().get(name, 0)
                sentence = f"Adapter {name} is in use (requests under way: {count}). Unload it when they have ended."
                await _reply(send, 409, {"error": sentence})
                return
            await asyncio.sleep(0.02)
        await _reply(send, 404, {"error": f"Adapter {name} is not loaded."})

    async def _in_turn(self, name: str, scope: MutableMapping[str, Any], replay: "Replay", send: Send) -> None:
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._turns.enter(name, ticket, time.monotonic()):
            ticket.set_result(None)
        try:
            if not ticket.done():
                await _first(ticket, replay.hang_up())
            if ticket.done():
                await self._app(scope, replay, send)
        finally:
            if ticket.done():
                freed = self._turns.leave(name, time.monotonic())
            else:
                freed = self._turns.give_up(ticket, time.monotonic())
            for turn in freed:
                turn.set_result(None)

    async def _cache(self, scope: MutableMapping[str, Any]) -> AdapterCache:
        cache = self._place.opened()
        if cache is None:
            cache = await asyncio.to_thread(self._place.cache)
        if cache.forgets is None:
            loop, models = asyncio.get_running_loop(), scope["app"].state.openai_serving_models

            async def forget(adapter_id: str) -> bool:
                return _forget(adapter_id, cache, models)

            cache.forgets = lambda adapter_id: asyncio.run_coroutine_threadsafe(forget(adapter_id), loop).result(10)
        return cache

    async def _own(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        wish = scope["method"], scope["path"]
        if wish == ("PUT", "/rootstock/keep"):
            try:
                asked = json.loads(body)
                gateway, names = str(asked["gateway"])[:64], [str(name) for name in asked["adapters"]]
            except (ValueError, LookupError, TypeError):
                await _reply(send, 400, {"error": "expected {gateway, adapters}"})
                return
            self._keep(gateway, [name for name in names if ids.is_adapter_id(name)])
            await self._load(scope)
        elif wish == ("POST", "/rootstock/drain"):
            self._draining = True
            log.info("draining: %d requests under way", sum(self._turns.running.values()))
        elif wish != ("GET", "/rootstock/state"):
            await _reply(send, 404, {"error": "no such path"})
            return
        await _reply(send, 200, await asyncio.to_thread(self._state))

    def _keep(self, gateway: str, names: list[str]) -> None:
        now = time.monotonic()
        self._wanted[gateway] = names[: self._place.settings.max_cpu_loras], now + KEEP_SECONDS
        self._wanted = {who: (what, until) for who, (what, until) in self._wanted.items() if until > now}

    def _kept(self) -> list[str]:
        now = time.monotonic()
        kept = dict.fromkeys(name for names, until in self._wanted.values() if until > now for name in names)
        return list(kept)[: self._place.settings.max_cpu_loras]

    async def _load(self, scope: MutableMapping[str, Any]) -> None:
        cache = await self._cache(scope)
        cache.kept = frozenset(self._kept())
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load_missing(cache, scope["app"].state.openai_serving_models))

    async def _load_missing(self, cache: AdapterCache, models: Any) -> None:
        """Load what is wanted and not known to vLLM, one after another: requests come first."""
        for name in self._kept():
            if name in models.lora_requests:
                continue
            cache.begin(name)
            try:
                found = await models.resolve_lora(name)
                if not hasattr(found, "lora_path"):
                    log.warning("adapter %s, which is to be kept, cannot be loaded", name)
            except Exception as error:
                log.warning("adapter %s, which is to be kept, cannot be loaded: %s", name, error)
            finally:
                cache.end(name)

    def _state(self) -> dict[str, Any]:
        settings, cache = self._place.settings, self._place.opened()
        entries = cache.shelf.entries() if cache else []
        return {
            "base": settings.base_name,
            "max_loras": settings.max_loras,
            "max_cpu_loras": settings.max_cpu_loras,
            "max_lora_rank": settings.max_lora_rank,
            "resident": cache.resident() if cache else [],
            "cached": [entry.adapter_id for entry in entries[-LISTED:][::-1]],
            "cached_bytes": sum(entry.bytes for entry in entries),
            "kept": self._kept(),
            "running": self._turns.running,
            "waiting": self._turns.waiting,
            "draining": self._draining,
        }


class Replay:
    """What the server receives of a request whose body was read already: the body again, then what really comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._first: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive
        self._gone: Message | None = None

    async def __call__(self) -> Message:
        """The next message."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._gone or await self._receive()

    async def hang_up(self) -> None:
        """Returns when the client has gone."""
        while self._gone is None:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = message


def _forget(name: str, cache: AdapterCache, models: Any) -> bool:
    """Make vLLM forget an adapter with no request under way; whether it did.

    vLLM numbers an adapter anew when it has to ask for it again, and its engine dies (a KeyError, 0.32) of a batch with
    two numbers for one name. To be called in the event loop, where requests begin: none can be on its way in between.
    """
    if cache.is_running(name):
        return False
    models.lora_requests.pop(name, None)
    return True


async def _body(receive: Receive) -> bytes | None:
    """The whole body, `None` when the client went away before it was sent."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _field(body: bytes, name: str) -> str | None:
    try:
        value = json.loads(body)[name]
    except (ValueError, LookupError, TypeError):
        return None  # vLLM says what is wrong with it
    return value if isinstance(value, str) else None


async def _first(ticket: asyncio.Future[None], hang_up: Coroutine[Any, Any, None]) -> None:
    """Until the ticket is called or the client has gone."""
    gone = asyncio.ensure_future(hang_up)
    try:
        await asyncio.wait({ticket, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _reply(send: Send, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
