"""The client of the serving benchmark reads what a server says, however it comes."""

import asyncio
import contextlib

import pytest

from benchmarks.serving.client import Raw, Side, Took
from tests.conftest import OWN_SERVERS

ROLE = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
WORD = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"Hi"}}],"usage":{"completion_tokens":1}}\n\n'
USAGE = b'data: {"id":"chatcmpl-1","choices":[],"usage":{"completion_tokens":7}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_the_first_token_is_the_first_with_text_and_the_last_usage_counts() -> None:
    whole = ROLE + WORD + USAGE + DONE
    for cut in range(1, len(whole)):
        raw = Raw("m", 10.0, [(11.0, whole[:cut]), (12.0, whole[cut:])], ended=13.0, status=200)
        first = 1.0 if cut >= len(ROLE + WORD) - 1 else 2.0
        assert raw.took() == Took("m", first, 3.0, 7, "chatcmpl-1"), cut


@pytest.mark.parametrize(("status", "content"), [(503, DONE), (200, ROLE + WORD)])
def test_a_refusal_and_a_broken_answer_are_no_measurement(status: int, content: bytes) -> None:
    with pytest.raises(RuntimeError, match="m: "):
        Raw("m", 0.0, [(1.0, content)], ended=2.0, status=status).took()


def test_it_asks_over_kept_connections_and_says_when_there_is_no_answer() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                asked.append(head + await reader.readexactly(size))
                if len(asked) == 3:
                    break
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for piece in (ROLE, WORD, USAGE + DONE):
                    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
        writer.close()

    async def main() -> list[Raw]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        OWN_SERVERS.add(port)
        with contextlib.closing(Side(f"http://127.0.0.1:{port}", "key")) as side:
            answers = [await side.ask("m", "Hello", 7, never=[3]) for _ in range(2)]
            with pytest.raises(ConnectionError):
                await side.ask("m", "Hello", 7)
        server.close()
        return answers

    for answer in asyncio.run(main()):
        took = answer.took()
        assert took.tokens == 7 and 0 < took.first <= took.whole
    assert b"authorization: Bearer key" in asked[0] and b'"logit_bias": {"3": -100}' in asked[0]
    assert b"logit_bias" not in asked[2]
