"""A streamed answer on its way from vLLM to its client, for what the stand-in server cannot say: what comes together,
what is no event of vLLM's, and clients that leave at a bad moment.
"""

import asyncio
import contextlib
import json
from typing import Any, cast

import pytest
from starlette.requests import ClientDisconnect

from rootstock.records import Caller
from rootstock.usage import Amounts
from service import presence
from service.connections import Answer
from service.gateway import CHAT, CountedStream
from service.inference import Chunks, Relay
from service.meter import Tally
from service.presence import Presence
from service.sampling import Heard
from service.slots import Slots
from service.upstream import Stream

CALLER = Caller("proj_a", "acme", "key_a", "owner")
DONE = b"data: [DONE]\n\n"


def event(text: str = "", **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    found = {"id": "chatcmpl-1", "created": 1, "choices": [choice], "usage": usage} | more
    return b"data: " + json.dumps(found).encode() + b"\n\n"


class Pieces:
    """An answer of vLLM's that comes in these pieces, each after so many seconds."""

    def __init__(self, *pieces: bytes, seconds: float = 0.0) -> None:
        self.pieces = list(pieces)
        self.seconds = seconds
        self.ended: list[str] = []

    async def piece(self) -> bytes:
        await asyncio.sleep(self.seconds)
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.ended.append("closed")

    def leave(self) -> None:
        self.ended.append("left")


class Listener:
    """What a watch hears."""

    def __init__(self) -> None:
        self.events = self.ends = 0

    def event(self, _: Any) -> None:
        self.events += 1

    def end(self) -> None:
        self.ends += 1


class Told:
    """What came of one answer."""

    def __init__(self) -> None:
        self.sent = b""
        self.amounts: list[Amounts] = []
        self.spent: list[Any] = []
        self.heard = Listener()
        self.free_at_done: bool | None = None
        self.free = False
        self.error: BaseException | None = None

    @property
    def texts(self) -> list[str]:
        lines = [line[6:] for line in self.sent.decode().split("\n\n") if line.startswith("data: {")]
        found = [json.loads(line) for line in lines]
        return [one["error"]["type"] if "error" in one else one["choices"][0]["delta"]["content"] for one in found]


def passed_on(answer: Pieces, *, hangs_up_while_spent: bool = False) -> Told:
    told, slots = Told(), Slots(1)

    async def main() -> None:
        gone = asyncio.Event()

        async def receive() -> Any:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            body = message.get("body", b"")
            if DONE in body:
                with slots.one(CALLER, "m"):
                    told.free_at_done = True
            told.sent += body

        async def spent(usage: Any) -> None:
            if hangs_up_while_spent:
                gone.set()
            await asyncio.sleep(0.02)
            told.spent.append(usage)

        stream = Stream(cast(Answer, answer))
        await stream.begin()
        counted, tally = contextlib.ExitStack(), Tally(told.amounts.append, answers=1)
        counted.enter_context(tally)
        whole = CountedStream("m", stream, tally, counted, cast(Heard, told.heard))
        script = Chunks(CHAT, "m", None, include_usage=False)
        relay = Relay(whole, script, spent, Presence(receive), slots.one(CALLER, "m"))
        try:
            await relay({}, receive, send)
        except ClientDisconnect as error:
            told.error = error
        with slots.one(CALLER, "m"):
            told.free = True

    asyncio.run(main())
    assert told.free and len(told.spent) == len(told.amounts) == 1 and len(answer.ended) == 1
    return told


def test_what_comes_at_once_is_passed_on_in_order_and_all_is_settled_before_its_end_is_told() -> None:
    answer = Pieces(event("a") + event("b"), event("c") + event(choices=[]) + DONE)
    told = passed_on(answer)
    assert told.texts == ["a", "b", "c"] and told.sent.endswith(DONE) and told.free_at_done
    assert told.amounts == [Amounts(1, 0, 5, 1)] and told.spent[0]["total_tokens"] == 6
    assert (told.heard.events, told.heard.ends, answer.ended) == (4, 1, ["left"])


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {no json\n\n",
        event(choices=None),
        event(choices=[{"index": None, "delta": {"content": "x"}}]),
        event(choices=[{"index": 0, "delta": None}]),
        event(choices=[{"index": 0}]) + DONE,
    ],
)
def test_what_came_before_a_malformed_event_is_passed_on_and_the_error_told(bad: bytes) -> None:
    answer = Pieces(event("a") + event("b"), event("c") + bad)
    told = passed_on(answer)
    assert told.texts == ["a", "b", "c", "server_error"] and DONE not in told.sent
    assert told.heard.ends == 0 and told.amounts[0].completion_tokens == 1


def test_an_error_of_the_engine_and_a_stream_that_breaks_off_are_told_after_what_came() -> None:
    for end in (event("b") + b'data: {"error": {"message": "no"}}\n\n', event("b")):
        told = passed_on(Pieces(event("a"), end))
        assert told.texts[:2] == ["a", "b"] and len(told.texts) == 3
        assert told.amounts[0].failed_requests == 1 and told.heard.ends == 0


@pytest.mark.parametrize("usage", ["x", 7, [], {"completion_tokens": "x", "prompt_tokens": None}])
def test_usage_that_is_none_counts_nothing_and_harms_nobody(usage: Any) -> None:
    told = passed_on(Pieces(event("a", usage=usage), DONE))
    assert told.texts == ["a"] and told.amounts == [Amounts(1, 0, 0, 0)]


def test_a_fingerprint_of_another_kind_is_left_out() -> None:
    assert passed_on(Pieces(event("a", system_fingerprint=["x"]) + DONE)).texts == ["a"]


def test_who_hangs_up_with_the_last_token_is_counted_all_the_same() -> None:
    told = passed_on(Pieces(event("a"), event(choices=[]) + DONE), hangs_up_while_spent=True)
    assert told.texts == ["a"] and told.spent[0]["total_tokens"] == 6 and told.error is not None


def test_an_engine_that_pauses_is_not_taken_for_a_client_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SEND_SECONDS", 0.01)
    assert passed_on(Pieces(event("a"), event("b"), DONE, seconds=0.05)).texts == ["a", "b"]


def test_who_has_gone_before_a_block_is_not_answered() -> None:
    async def main() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        here = Presence(receive)
        await asyncio.sleep(0.01)
        with pytest.raises(ClientDisconnect), here:
            pytest.fail("nobody is there")

    asyncio.run(main())
