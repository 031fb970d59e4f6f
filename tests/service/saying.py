"""A server that says what a test tells it to, on a real socket, and the event loops to ask it on. Knows no vLLM."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from service.connections import Connections
from tests.conftest import OWN_SERVERS

Says = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class Server:
    """What it was asked, and by how many connections. It says the same to every request."""

    def __init__(self, says: Says | bytes) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.port = 0
        self._says = says

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        here = asyncio.current_task()
        assert here is not None
        self.tasks.append(here)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((line[15:] for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b"0")
                self.requests.append(head + await reader.readexactly(int(length)))
                self.asked.set()
                if isinstance(self._says, bytes):
                    writer.write(self._says)
                else:
                    await self._says(reader, writer)
        self.hung_up.set()


@contextlib.asynccontextmanager
async def served(
    says: Says | bytes, path: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Server, Connections]]:
    server = Server(says)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    OWN_SERVERS.add(server.port)
    pool = Connections(f"{'https' if tls else 'http'}://127.0.0.1:{server.port}{path}")
    try:
        yield server, pool
    finally:
        pool.close()
        listening.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        OWN_SERVERS.discard(server.port)


async def get(pool: Connections, seconds: float = 5.0) -> bytes:
    answer = await pool.request("GET", "/", None, seconds)
    try:
        return await answer.whole()
    finally:
        answer.close()


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]


def run(test: Awaitable[None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(20):
            await test

    with asyncio.Runner(loop_factory=LOOPS[0]) as runner:
        runner.run(within())


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> None:
    """Both event loops that uvicorn may run on: they differ in when they tell what."""
    LOOPS[0] = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
