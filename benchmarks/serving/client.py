"""A client that costs next to nothing: it notes what comes and when, and reads it when all load is over.

It shares cores with the gateway but not with vLLM, so whatever it does while answers arrive is counted against the
gateway alone. Knows chat completions as a stream; nothing about sides or figures.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Took:
    """One request: which model, seconds to the first token and to the last, tokens, the answer's id."""

    model: str
    first: float
    whole: float
    tokens: int
    id: str


@dataclass
class Raw:
    """One answer as it came. `took` reads it."""

    model: str
    began: float
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    ended: float = 0.0
    status: int = 0

    def took(self) -> Took:
        """What it says. Raises `RuntimeError` for a refusal and for an answer that broke off."""
        content = b"".join(piece for _, piece in self.pieces)
        if self.status != 200 or not content.endswith(b"data: [DONE]\n\n"):
            raise RuntimeError(f"{self.model}: {self.status} {content[-300:]!r}")
        rest, first, tokens, name = b"", 0.0, 0, ""
        for at, piece in self.pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    name = event["id"]
                    if not first and event["choices"] and event["choices"][0]["delta"].get("content"):
                        first = at - self.began
                    tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        whole = self.ended - self.began
        return Took(self.model, first or whole, whole, tokens, name)


class Side:
    """A server that is asked, and the connections to it. Use it within one event loop, and close it."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._place = (str(parts.hostname), int(parts.port or 80))
        self._head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
        self._head += "content-type: application/json\r\ncontent-length: "
        self._idle: list[_Connection] = []

    async def ask(self, model: str, prompt: str, tokens: int, never: Sequence[int] = ()) -> Raw:
        """One streamed chat answer of at most so many tokens.

        It has exactly as many where `never` holds the ids of the tokens that would end it: random weights end theirs
        early. Raises `TimeoutError`, and `ConnectionError` when there is no answer.
        """
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, "temperature": 0}
        body |= {"max_tokens": tokens, "stream_options": {"include_usage": True}}
        body |= {"logit_bias": {str(token): -100 for token in never}} if never else {}
        content = json.dumps(body).encode()
        request = f"{self._head}{len(content)}\r\n\r\n".encode() + content
        connection = await self._connection()
        raw = Raw(model, time.perf_counter())
        await connection.ask(request, raw)
        self._idle.append(connection)
        return raw

    def close(self) -> None:
        """Close the connections that wait for another request."""
        for connection in self._idle:
            connection.transport.abort()

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._place)
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time."""

    transport: asyncio.Transport
    _raw: Raw
    _parser: httptools.HttpResponseParser
    _ended: asyncio.Future[None] | None = None

    async def ask(self, request: bytes, raw: Raw) -> None:
        self._raw, self._parser = raw, httptools.HttpResponseParser(self)
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(ConnectionError(str(error or "hung up")))

    def on_headers_complete(self) -> None:
        self._raw.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        self._raw.pieces.append((time.perf_counter(), piece))

    def on_message_complete(self) -> None:
        self._raw.ended = time.perf_counter()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
