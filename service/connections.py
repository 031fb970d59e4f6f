"""Connections to one server of models: HTTP/1.1 requests, and their answers as they come.

What a gateway to vLLM needs and no more: a request at a time on each connection, which is kept for the next one; no
redirects, cookies, proxies or encodings. llhttp reads the answers. A general client takes a tenth of what a gateway may
add to the first token (docs/decisions/0026). Knows bytes; nothing about models.
"""

import asyncio
import base64
import functools
import ssl
from collections.abc import Callable
from typing import cast
from urllib.parse import unquote, urlsplit

import httptools

CONNECT_SECONDS = 5.0
"""To find the server's address, and to connect, at most: it is part of what a request may take."""

IDLE_SECONDS = 3.0
"""A connection is used again within this time: less than vLLM keeps it, or it might close it just then."""

HARMLESS_TWICE = ("GET", "PUT")
"""What is asked again when a kept connection turns out to be none any more."""

END_SECONDS = 0.5
"""An answer of which nothing more is wanted has this long to end, or its connection is closed."""

MOST_BUFFERED_BYTES = 256 * 1024
"""What nobody has read yet; beyond it the server has to wait."""

Locate = Callable[[str, int], tuple[str, int]]
"""Where a host and a port are found."""


class Disconnected(Exception):
    """The server cannot be reached, has hung up, or says what is not HTTP."""


class Unreachable(Disconnected):
    """There is no connection to be had, so nothing was sent."""


class Connections:
    """Those to the server at `url`, as many as there are requests at a time. Use it within one event loop.

    Example: `answer = await connections.request("GET", "/health", None, seconds=3.0)`.
    """

    def __init__(self, url: str, locate: Locate | None = None) -> None:
        parts = urlsplit(url)
        self._tls = _certificates() if parts.scheme == "https" else None
        self._place = (parts.hostname or "", parts.port or (443 if self._tls else 80))
        self._locate = locate
        self._path = parts.path.rstrip("/")
        headers = {"host": parts.netloc.rpartition("@")[2], "accept": "*/*", "accept-encoding": "identity"}
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._idle: dict[_Connection, float] = {}
        self._all: set[_Connection] = set()
        self.closed = False

    async def request(self, method: str, path: str, body: bytes | None, seconds: float) -> "Answer":
        """What answers, which has to come to its end within `seconds`. Close it in every case.

        Raises `Disconnected`, and `TimeoutError` when it has not begun by then.
        """
        ends = asyncio.get_running_loop().time() + seconds
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._headers}"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        sent = f"{head}\r\n".encode() + (body or b"")
        kept = self._kept()
        if kept is not None and method in HARMLESS_TWICE:
            try:
                return await kept.ask(sent, ends)
            except Disconnected:  # the server may have ended it just then
                kept = None
        return await (kept or await self._connect(ends)).ask(sent, ends)

    def close(self) -> None:
        """Close every connection, whatever is under way on it."""
        self.closed = True
        for connection in list(self._all):
            connection.abort()

    def keep(self, connection: "_Connection") -> None:
        """It is free for another request. Those that have been for too long are closed."""
        now = asyncio.get_running_loop().time()
        while self._idle and now - next(iter(self._idle.values())) >= IDLE_SECONDS:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            oldest.abort()
        self._idle[connection] = now

    def lost(self, connection: "_Connection") -> None:
        """It is not there any more."""
        self._all.discard(connection)
        self._idle.pop(connection, None)

    def _kept(self) -> "_Connection | None":
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection, since = self._idle.popitem()
            if connection.usable and now - since < IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self, ends: float) -> "_Connection":
        self._check_open()
        loop, (host, port) = asyncio.get_running_loop(), self._place
        if self._locate is not None:
            host, port = self._locate(host, port)
        name = self._place[0] if self._tls else None
        try:
            async with asyncio.timeout_at(min(ends, loop.time() + CONNECT_SECONDS)):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, loop), host, port, ssl=self._tls, server_hostname=name
                )
        except (OSError, ValueError) as error:  # the first is also one of time, the second a name that is none
            raise Unreachable(f"not reachable: {error}") from error
        self._all.add(connection)
        self._check_open(connection)
        return connection

    def _check_open(self, connection: "_Connection | None" = None) -> None:
        if self.closed:
            if connection is not None:
                connection.abort()
            raise Disconnected("closed")


@functools.cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()  # to read the system's takes a while


class Answer:
    """One answer: its `status`, and its body in pieces as they come or as a whole."""

    def __init__(self, connection: "_Connection") -> None:
        self.status = 0
        self._connection: _Connection | None = connection
        self.pieces: list[bytes] = []
        self.size = 0
        self._error: Exception | None = None
        self._ended = False
        self._waiting: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        """Wait for the status. Raises `Disconnected` or `TimeoutError`."""
        while not self.status:
            await self._more()

    async def piece(self) -> bytes:
        """What has come since, at least a byte; nothing at the end. Raises `Disconnected` or `TimeoutError`."""
        while not self.pieces:
            if self._ended:
                return b""
            await self._more()
        pieces, self.pieces, self.size = self.pieces, [], 0
        if self._connection is not None and self._connection.paused:
            self._connection.resume()
        return b"".join(pieces)

    async def whole(self) -> bytes:
        """The rest of the body. Raises `Disconnected` or `TimeoutError`."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Nothing more is wanted: hang up if it has not ended."""
        if self._connection is not None:
            self._connection.abort()

    def leave(self) -> None:
        """Nothing more is wanted, and it is about to end: its connection is kept when that comes true."""
        if self._connection is not None:
            self._connection.leave()

    # What follows is told by the connection.

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes."""
        self._connection, self._error, self._ended = None, error, error is None
        self.wake()

    def wake(self) -> None:
        """There is something new."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting


class _Connection(asyncio.Protocol):
    """Hears from its transport and from its parser, and tells the one answer that is under way."""

    def __init__(self, pool: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: Answer | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._left = self.paused = False

    @property
    def usable(self) -> bool:
        """Whether a request can be sent: it is open, and nothing of an earlier one is still to be sent."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    async def ask(self, request: bytes, ends: float) -> Answer:
        """Send a request; its answer, once that has begun. Raises `Disconnected` or `TimeoutError`."""
        assert self._transport is not None
        self._answer = answer = Answer(self)
        self._parser, self._left = httptools.HttpResponseParser(self), False
        self._deadline = self._loop.call_at(ends, self._late)
        self._transport.write(request)
        try:
            await answer.begin()
        except BaseException:
            answer.close()
            raise
        return answer

    def leave(self) -> None:
        """Throw away what still comes of the answer, for a moment."""
        assert self._deadline is not None
        self._left = True
        self._deadline.cancel()
        self._deadline = self._loop.call_later(END_SECONDS, self._late)
        self.resume()

    def resume(self) -> None:
        """There is room again."""
        if self.paused and self._transport is not None:
            self.paused = False
            self._transport.resume_reading()

    def abort(self, error: Exception | None = None) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()
        self._end(error or Disconnected("closed"))

    def _late(self) -> None:
        self.abort(TimeoutError())

    def _end(self, error: Exception | None = None) -> None:
        answer, self._answer = self._answer, None
        if self._deadline is not None:
            self._deadline.cancel()
        if answer is not None:
            answer.end(error)

    # What follows is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by their type

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._parser is None:  # nobody has asked for this
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort(Disconnected(f"no HTTP: {error}"))
            return
        if self._answer is not None:
            self._answer.wake()

    def connection_lost(self, error: Exception | None) -> None:
        # Also where a body has no length and ends with its connection: who could tell that it is whole?
        self._pool.lost(self)
        self._end(Disconnected(str(error or "hung up")))
        self._parser = None  # which holds this one

    # What follows is called by the parser.

    def on_headers_complete(self) -> None:
        if self._answer is None or self._parser is None:
            raise Disconnected("an answer that nobody has asked for")
        status = self._parser.get_status_code()
        if status >= 200:  # those below announce the answer
            self._answer.status = status

    def on_body(self, piece: bytes) -> None:
        if self._answer is None or self._transport is None:
            raise Disconnected("a body that nobody has asked for")
        if self._left:
            return
        answer = self._answer
        answer.pieces.append(piece)
        answer.size += len(piece)
        if answer.size > MOST_BUFFERED_BYTES and not self.paused:
            self.paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._answer is None or self._parser is None or not self._answer.status:
            return
        self.resume()
        self._end()
        if self._parser.should_keep_alive() and not self._pool.closed:
            self._pool.keep(self)
        else:
            self.abort()
