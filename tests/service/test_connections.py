"""Connections to a server of models, on real sockets: every way in which an answer comes, ends or does not end."""

import asyncio
import contextlib
import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import connections
from service.connections import Connections, Disconnected
from tests.conftest import OWN_SERVERS
from tests.service.saying import HEAD, WHOLE, Server, get, loop, run, served

__all__ = ["loop"]  # a fixture

pytestmark = pytest.mark.usefixtures("loop")


def test_a_request_reads_as_http_and_its_answer_comes_back() -> None:
    async def test() -> None:
        async with served(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone", path="/behind/") as (
            server,
            pool,
        ):
            answer = await pool.request("POST", "/v1/x", b'{"a":1}', 5.0)
            assert (answer.status, await answer.whole()) == (404, b"none")
            head, _, body = server.requests[0].partition(b"\r\n\r\n")
            first, *headers = head.decode().split("\r\n")
            assert (first, body) == ("POST /behind/v1/x HTTP/1.1", b'{"a":1}')
            assert {f"host: 127.0.0.1:{server.port}", "content-type: application/json", "content-length: 7"} <= {
                *headers
            }

    run(test())


def test_a_name_and_password_in_the_url_are_sent_as_basic_authentication() -> None:
    async def test() -> None:
        async with served(WHOLE) as (server, _):
            pool = Connections(f"http://me:p%40ss@127.0.0.1:{server.port}")
            await get(pool)
            pool.close()
            assert b"authorization: Basic bWU6cEBzcw==\r\n" in server.requests[0]
            assert f"host: 127.0.0.1:{server.port}\r\n".encode() in server.requests[0]

    run(test())


@given(cuts=st.lists(st.integers(1, 90), max_size=12), pieces=st.lists(st.binary(min_size=1, max_size=12), max_size=4))
def test_wherever_the_network_cuts_an_answer_it_is_the_same(cuts: list[int], pieces: list[bytes]) -> None:
    sent = HEAD + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    async def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
        for start, end in itertools.pairwise(places):
            writer.write(sent[start:end])
            await asyncio.sleep(0)

    async def test() -> None:
        async with served(says) as (server, pool):
            assert [await get(pool), await get(pool)] == [b"".join(pieces)] * 2
            assert server.connections == 1

    run(test())


def test_pieces_come_before_the_answer_is_whole() -> None:
    async def test() -> None:
        more = asyncio.Event()

        async def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(HEAD + b"3\r\none\r\n")
            await more.wait()
            writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

        async with served(says) as (_, pool):
            answer = await pool.request("GET", "/", None, 5.0)
            assert await answer.piece() == b"one"
            more.set()
            assert [await answer.piece(), await answer.piece(), await answer.piece()] == [b"two", b"", b""]

    run(test())


def test_a_connection_serves_one_request_at_a_time_and_then_the_next_one() -> None:
    async def test() -> None:
        async with served(WHOLE) as (server, pool):
            await asyncio.gather(get(pool), get(pool), get(pool))
            assert server.connections == 3
            assert [await get(pool) for _ in range(4)] == [b"hi"] * 4
            assert server.connections == 3

    run(test())


def test_one_that_lay_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with served(WHOLE) as (server, pool):
            await get(pool)
            monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
            await get(pool)
            assert server.connections == 2

    run(test())


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", WHOLE + b"unasked", WHOLE + WHOLE]
)
def test_one_that_the_server_ends_or_says_too_much_on_is_not_used_again(said: bytes) -> None:
    async def test() -> None:
        async with served(said) as (server, pool):
            assert [await get(pool), await get(pool)] == [b"hi"] * 2
            assert server.connections == 2

    run(test())


def test_what_announces_an_answer_is_not_the_answer() -> None:
    async def test() -> None:
        async with served(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + WHOLE) as (_, pool):
            assert await get(pool) == b"hi"

    run(test())


@pytest.mark.parametrize(
    ("said", "come"),
    [
        (HEAD + b"3\r\none\r\n", b"one"),
        (HEAD + b"3\r\none\r\nnonsense\r\n", b"one"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\none", b"one"),
        (b"HTTP/1.1 200 OK\r\n\r\nends with its connection", b"ends with its connection"),
    ],
)
def test_what_came_of_a_broken_answer_is_given_before_it_is_said_to_be_broken(said: bytes, come: bytes) -> None:
    async def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async def test() -> None:
        async with served(says) as (_, pool):
            answer = await pool.request("GET", "/", None, 5.0)
            assert await answer.piece() == come
            for _ in range(2):
                with pytest.raises(Disconnected):
                    await answer.piece()

    run(test())


@pytest.mark.parametrize(
    "said", [b"220 mail.example.org ESMTP\r\n", b"\x16\x03\x01", b"HTTP/1.1 101 Up\r\nupgrade: x\r\n\r\n"]
)
def test_what_is_no_answer_is_said_to_be_none(said: bytes) -> None:
    async def test() -> None:
        async with served(said) as (_, pool):
            with pytest.raises(Disconnected):
                await get(pool)

    run(test())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://a..b:80", "http://127.0.0.1:1/path"])
def test_a_server_that_cannot_be_reached(url: str) -> None:
    OWN_SERVERS.add(1)

    async def test() -> None:
        with pytest.raises(Disconnected):
            await get(Connections(url))

    run(test())


def test_connecting_is_part_of_what_a_request_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async def test() -> None:
        loop = asyncio.get_running_loop()
        patched = SimpleNamespace(time=loop.time, create_connection=never)
        monkeypatch.setattr("service.connections.asyncio.get_running_loop", lambda: patched)
        pool, began = Connections("http://127.0.0.1:1"), loop.time()
        with pytest.raises(Disconnected):
            await pool.request("GET", "/", None, 0.1)
        assert loop.time() - began < 2

    run(test())


@pytest.mark.parametrize(("method", "answered"), [("GET", True), ("PUT", True), ("POST", False)])
def test_what_may_be_asked_twice_is_when_a_kept_connection_is_none_any_more(method: str, answered: bool) -> None:
    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) != 2:
            writer.write(WHOLE)
        else:
            writer.close()

    server: Server

    async def test() -> None:
        nonlocal server
        async with served(says) as (server, pool):
            await get(pool)
            if answered:
                assert (await pool.request(method, "/", b"{}", 5.0)).status == 200
            else:
                with pytest.raises(Disconnected):
                    await pool.request(method, "/", b"{}", 5.0)
            assert (len(server.requests), server.connections) == ((3, 2) if answered else (2, 1))

    run(test())


def test_those_that_lie_idle_for_long_are_closed_when_another_one_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with served(WHOLE) as (server, pool):
            await asyncio.gather(get(pool), get(pool), get(pool))
            monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
            await get(pool)
            while len(server.tasks) > 1:
                await asyncio.wait(server.tasks, return_when=asyncio.FIRST_COMPLETED)
                server.tasks = [task for task in server.tasks if not task.done()]

    run(test())


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + b"3\r\none\r\n"])
def test_an_answer_that_takes_too_long_ends_at_its_deadline(said: bytes) -> None:
    async def test() -> None:
        async with served(said) as (server, pool):
            with pytest.raises(TimeoutError):
                await get(pool, seconds=0.1)
            await server.hung_up.wait()

    run(test())


@pytest.mark.parametrize("whole", [False, True])
def test_closing_an_answer_hangs_up_unless_it_has_ended(whole: bool) -> None:
    async def test() -> None:
        async with served(WHOLE if whole else HEAD + b"3\r\none\r\n") as (server, pool):
            answer = await pool.request("GET", "/", None, 5.0)
            if whole:
                await answer.whole()
            answer.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2 if whole else 5):
                    await server.hung_up.wait()
            assert server.hung_up.is_set() == (not whole)

    run(test())


def test_who_stops_waiting_hangs_up() -> None:
    async def test() -> None:
        async with served(b"") as (server, pool):
            waiting = asyncio.create_task(pool.request("GET", "/", None, 5.0))
            await server.asked.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await server.hung_up.wait()

    run(test())


@pytest.mark.parametrize(("ends", "used"), [(True, 1), (False, 2)])
def test_an_answer_that_is_left_may_still_end(monkeypatch: pytest.MonkeyPatch, ends: bool, used: int) -> None:
    async def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"3\r\none\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"3\r\ntwo\r\n" + (b"0\r\n\r\n" if ends else b""))

    async def test() -> None:
        monkeypatch.setattr(connections, "END_SECONDS", 0.2)
        async with served(says) as (server, pool):
            for _ in range(2):
                answer = await pool.request("GET", "/", None, 5.0)
                assert await answer.piece() == b"one"
                answer.leave()
                await asyncio.sleep(0.4)
            assert (server.connections, server.hung_up.is_set()) == (used, not ends)

    run(test())


def test_a_server_waits_for_who_does_not_read() -> None:
    size, piece = 0, b"x" * 65536

    async def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal size
        writer.write(HEAD)
        for _number in range(400):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            size += len(piece)
        writer.write(b"0\r\n\r\n")

    async def test() -> None:
        async with served(says) as (_, pool):
            answer = await pool.request("GET", "/", None, 20.0)
            await asyncio.sleep(0.5)
            assert size < 400 * len(piece)
            assert len(await answer.whole()) == 400 * len(piece)
            assert await get(pool)

    run(test())


def test_a_closed_pool_opens_nothing() -> None:
    async def test() -> None:
        async with served(WHOLE) as (server, pool):
            await get(pool)
            pool.close()
            with pytest.raises(Disconnected):
                await get(pool)
            assert server.connections == 1

    run(test())
