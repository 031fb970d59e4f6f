"""Talking to vLLM: one shared client for each server, its errors in our words, answers whole or streamed.

Servers of a base model and its adapters are chosen among by `service.replicas`; each full fine-tune has a server of its
own. Knows vLLM's HTTP interface; nothing about callers, keys or databases.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from rootstock.errors import EngineAway, EngineSlow, InvalidRequest, InvalidValue, RootstockError, Unavailable
from service.connections import Answer, Connections, Disconnected, Locate, Unreachable
from service.shapes import Events

log = logging.getLogger(__name__)

FULL_MODELS_SECONDS = 10.0
MISSED_SECONDS = 1.0
"""A whole model that no server listed is looked for again after this long; those that were found are kept longer."""

HEALTH_SECONDS = 3.0
LOADING = "The model is being loaded or the serving engine is away. Please retry."

_CONTEXT = re.compile(r"maximum context length|longer than the maximum model length|exceeds model's maximum", re.I)
_TOOLS_OFF = re.compile(r"tool choice requires|tool-call-parser", re.I)
_PARAMETER_SUFFIX = re.compile(r" \((?:parameter=\w+)?(?:, )?(?:value=.*)?\)$", re.S)


class Engine:
    """One vLLM server. `locate` says where its host is found, for tests."""

    def __init__(self, url: str, seconds: float, locate: Locate | None = None) -> None:
        self.url = url
        self._seconds = seconds
        self._connections = Connections(url.rstrip("/").removesuffix("/v1"), locate)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()

    async def alive(self) -> bool:
        """Whether vLLM says it is healthy."""
        with contextlib.suppress(Unavailable):
            return (await self._ask("GET", "/health", HEALTH_SECONDS))[0] == 200
        return False

    async def names(self) -> list[str]:
        """The models that it lists, at least one. Raises `Unavailable`."""
        status, content = await self._ask("GET", "/v1/models", HEALTH_SECONDS)
        listed = _listed(content) if status == 200 else []
        if not listed:
            raise _away()
        return listed

    async def state(self) -> dict[str, Any] | None:
        """What its door tells: adapters, limits, load; `None` when it is a vLLM without ours. Raises `Unavailable`."""
        status, content = await self._ask("GET", "/rootstock/state", HEALTH_SECONDS)
        return None if status == 404 else _object(status, content)

    async def keep(self, gateway: str, adapters: Sequence[str]) -> None:
        """Ask it to have these adapters in memory, unasked, until it hears otherwise. Raises `Unavailable`."""
        body = {"gateway": gateway, "adapters": list(adapters)}
        await self._ask("PUT", "/rootstock/keep", HEALTH_SECONDS, body)

    async def complete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer. Raises what the client should see."""
        status, content = await self._ask("POST", path, self._seconds, body)
        if status != 200:
            raise refusal(status, content, body)
        return _object(status, content)

    async def open_stream(self, path: str, body: dict[str, Any]) -> "Stream":
        """A streamed answer, once its first event is here: until then another server may be asked instead.

        vLLM says 200 before it generates, so that alone would promise nothing. Close the stream in every case.
        """
        answer = await self._send("POST", path, self._seconds, body)
        stream = Stream(answer)
        try:
            if answer.status != 200:
                raise refusal(answer.status, await _whole(answer), body)
            first = await stream.begin()
            if "error" in first:
                raise refusal(_status(first["error"]), _dump(first), body)
        except BaseException:
            answer.close()
            raise
        return stream

    async def _ask(
        self, method: str, path: str, seconds: float, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes]:
        """The status and the whole content of an answer. Raises `Unavailable`."""
        with contextlib.closing(await self._send(method, path, seconds, body)) as answer:
            return answer.status, await _whole(answer)

    async def _send(self, method: str, path: str, seconds: float, body: dict[str, Any] | None) -> Answer:
        content = None if body is None else _dump(body)
        try:
            return await self._connections.request(method, path, content, seconds)
        except (Disconnected, TimeoutError) as error:
            raise _unreached(error) from error


class FullModels:
    """Which server answers for which whole model: whatever each of them lists at the moment."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._listed: dict[str, Engine] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    def close(self) -> None:
        """Close every connection."""
        for engine in self._engines:
            engine.close()

    async def engine(self, adapter_id: str) -> Engine | None:
        """The server that lists this model, remembered for some seconds; `None` when none does."""
        async with self._looking:  # many may ask at once; one look answers them all
            age = time.monotonic() - self._looked_at
            if age > (FULL_MODELS_SECONDS if adapter_id in self._listed else MISSED_SECONDS):
                await self._look()
        return self._listed.get(adapter_id)

    def forget(self) -> None:
        """Look again at the next request: a server has gone, or serves another model now."""
        self._looked_at = float("-inf")

    async def _look(self) -> None:
        found = await asyncio.gather(*(engine.names() for engine in self._engines), return_exceptions=True)
        self._listed = {}
        for engine, names in zip(self._engines, found, strict=True):
            if isinstance(names, Unavailable):
                continue
            if isinstance(names, BaseException):
                raise names
            self._listed |= dict.fromkeys(names, engine)
        self._looked_at = time.monotonic()


class Stream:
    """The events of one streamed answer, as many at a time as have come: vLLM writes those of many streams at once."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._cut = Events()
        self._begun: list[dict[str, Any]] = []
        self._broken: ValueError | None = None
        self.done = False
        """Whether everything has come, `[DONE]` included."""

    async def begin(self) -> dict[str, Any]:
        """Wait for the first event, which `more` gives again. Raises `EngineAway` when there is none."""
        try:
            self._begun = await self.more()
        except EngineSlow:
            raise
        except Unavailable:
            self._begun = []
        if not self._begun:
            raise _away()
        return self._begun[0]

    async def more(self) -> list[dict[str, Any]]:
        """The JSON events that have come since, at least one; none after the last.

        Raises `Unavailable` when the stream breaks off before its end, and `ValueError` for what is no JSON: each once
        all that came before was given.
        """
        found, self._begun = self._begun, []
        while not found and not self.done:
            if self._broken is not None:
                raise self._broken
            try:
                piece = await self._answer.piece()
            except (Disconnected, TimeoutError) as error:
                raise _unreached(error) from error
            if not piece:
                raise Unavailable("The model stopped answering before the end. Please retry.")
            found = self._decoded(piece)
        return found

    def _decoded(self, piece: bytes) -> list[dict[str, Any]]:
        found = []
        for payload in self._cut.feed(piece):
            if payload == b"[DONE]":
                self.done = True
                break
            try:
                found.append(msgspec.json.decode(payload))
            except ValueError as error:
                self._broken = error
                break
        return found

    def close(self) -> None:
        """Hang up; vLLM then stops generating. A complete answer leaves its connection to the next one."""
        if self.done:
            self._answer.leave()  # only the end of the body is still to come
        else:
            self._answer.close()


def refusal(status: int, content: bytes, body: dict[str, Any]) -> RootstockError:
    """vLLM's refusal in our words. An adapter that only the database knows yet is still loading: never a 404."""
    try:
        error = msgspec.json.decode(content)["error"]
        message, param = str(error["message"]), error.get("param")
    except (ValueError, LookupError, TypeError):
        message, param = content[:500].decode("utf-8", "replace"), None
    if status in (400, 413, 422) and "could not be loaded" not in message:
        return _bad_request(message, param, body)
    log.warning("vLLM refused a request for %s: %d %s", body["model"], status, message[:500])
    return _away() if status in (500, 502, 504) else Unavailable(LOADING)


def _status(error: Any) -> int:
    """The HTTP status that vLLM would have answered with, had it not begun to stream already."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _listed(content: bytes) -> list[str]:
    try:
        return [str(card["id"]) for card in msgspec.json.decode(content)["data"]]
    except (ValueError, LookupError, TypeError):  # whatever answers there, it is no vLLM
        return []


def _bad_request(message: str, param: Any, body: dict[str, Any]) -> RootstockError:
    message = _PARAMETER_SUFFIX.sub("", message).replace(str(body["model"]), "the model")
    if _CONTEXT.search(message):
        field = "messages" if "messages" in body else "prompt"
        return InvalidRequest(message, param=field, code="context_length_exceeded")
    if _TOOLS_OFF.search(message):
        reason = "This deployment's model does not support tool calls chosen by the model."
        return InvalidValue(reason, param="tool_choice", code="unsupported_value")
    return InvalidRequest(message, param=param if param in body else None)


def _object(status: int, content: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(content)
    except ValueError:
        value = None
    if status != 200 or not isinstance(value, dict):
        raise _away()
    return value


def _away() -> EngineAway:
    return EngineAway(LOADING)


def _dump(body: dict[str, Any]) -> bytes:
    return msgspec.json.encode(body)


async def _whole(answer: Answer) -> bytes:
    try:
        return await answer.whole()
    except (Disconnected, TimeoutError) as error:
        raise _unreached(error) from error


def _unreached(error: Disconnected | TimeoutError) -> Unavailable:
    """What every way of not reaching vLLM is to who asks."""
    if isinstance(error, TimeoutError):
        return EngineSlow("The model took too long to answer. Please retry.")
    away = _away()
    away.reached = not isinstance(error, Unreachable)
    return away
