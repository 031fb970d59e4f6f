"""`/v1/chat/completions` and `/v1/completions`: an allow-listed passage to vLLM.

The only async routes that wait long. vLLM only ever hears adapter ids, and none of our routes leads to its other ones.
Knows who is connected; the question itself is `service.gateway`'s.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from rootstock.addressing import Meaning
from rootstock.errors import RootstockError, ServerError, Unavailable
from rootstock.records import Caller
from service import shapes
from service.deps import A, Direct, Parts, admit, body_schema, parts
from service.gateway import CHAT, COMPLETIONS, Addressee, CountedStream, Gateway, Kind
from service.keeper import Keeper
from service.limits import estimate
from service.presence import Presence
from service.slots import Slot
from service.wire_answers import Answer, ChatCompletion, TextCompletion
from service.wire_inference import ChatRequest, CompletionRequest, Sampling

log = logging.getLogger(__name__)

router = APIRouter(tags=["inference"], route_class=Direct)


def _answer_of(model: type[Answer]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": "The completion, or with `stream` its chunks as server-sent events.",
            "model": model,
            "content": {"text/event-stream": {}},
        }
    }


@router.post(
    CHAT.path,
    response_class=Response,
    responses=_answer_of(ChatCompletion),
    openapi_extra=body_schema(ChatRequest),
)
async def chat_completions(request: Request) -> Response:
    """Answer a conversation with the base model or a tuned one."""
    return await _answer(CHAT, request)


@router.post(
    COMPLETIONS.path,
    response_class=Response,
    responses=_answer_of(TextCompletion),
    openapi_extra=body_schema(CompletionRequest),
)
async def completions(request: Request) -> Response:
    """Continue a text with the base model or a tuned one."""
    return await _answer(COMPLETIONS, request)


async def _answer(kind: Kind, request: Request) -> Response:
    _, question = await asked(request, kind.request, lambda body: body)
    body, keeper = question.body, None
    if isinstance(body, ChatRequest) and body.store:
        keeper = Keeper((await parts(request)).db, question.caller, body, request.state.request_id)

    def script(model: str) -> Script:
        return Chunks(kind, model, keeper, include_usage=body.include_usage)

    answer = await answered(kind, question, request, script)
    if isinstance(answer, Response):
        return answer
    if keeper is not None:
        await keeper.keep(answer)
    return JSONResponse(answer)


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody asks, about so many `tokens` long with its answer."""

    caller: Caller
    body: Sampling
    who: Addressee | RootstockError
    """Who is to answer, or why nobody does: said once the request is counted, as those that fail are, too."""

    tokens: int


async def asked(request: Request, model: type[A], as_sampling: Callable[[A], Sampling]) -> tuple[A, Question]:
    """The body, and the question that it is. Raises what the client should see."""
    within = await parts(request)
    gateway, longest = _gateway(within), within.settings.max_context_tokens

    def judge(caller: Caller, given: A, meaning: Meaning) -> Question:
        body = as_sampling(given)
        who: Addressee | RootstockError
        try:
            who = gateway.choose(meaning, body.model, body.asker)
        except RootstockError as error:
            who = error
        return Question(caller, body, who, _expected(body, longest))

    return await admit(request, model, judge)


async def answered(
    kind: Kind, question: Question, request: Request, script: Callable[[str], "Script"]
) -> dict[str, Any] | Response:
    """A whole answer, or for a streamed one what passes it on; `script` makes, for the model's name, its frames.

    Whoever asks is counted and limited here, and vLLM stops when the client hangs up. Raises what a client should see.
    """
    within, caller, body, tokens = await parts(request), question.caller, question.body, question.tokens
    gateway, limits = _gateway(within), within.limits

    async def spent(usage: dict[str, Any] | None) -> None:
        await limits.spent(caller, tokens, usage)

    with limits.slot(caller, body.model) as slot:
        request.state.rate_limits = await limits.inference(caller, body.model, tokens)
        if isinstance(who := question.who, RootstockError):
            raise who
        presence = Presence(request.receive)
        try:
            with presence:
                if body.stream:
                    stream = await gateway.open_stream(kind, body, caller, who)
                    relay = Relay(stream, script(stream.model), spent, presence, slot)
                    slot.keep()
                    return relay
                answer = await gateway.answer(kind, body, caller, who)
        finally:
            if not slot.kept:
                presence.stop()
    await spent(answer.get("usage"))
    return answer


def _gateway(within: Parts) -> Gateway:
    return Gateway(within.settings, within.db, within.upstream, within.meter, within.sampler)


def _expected(body: Sampling, longest: int) -> int:
    """What to count before the answer is known; `longest` is the model's context in tokens, 0 when it is not told."""
    asked = getattr(body, "max_completion_tokens", None) or getattr(body, "max_tokens", None) or 0
    prompt = getattr(body, "messages", None) or getattr(body, "prompt", None)
    return estimate(prompt, (body.n or 1) * min(asked, longest or asked))


class Script(Protocol):
    """Turns vLLM's events into the frames of one stream."""

    def begin(self) -> list[bytes]:
        """Before the first event."""

    def event(self, event: dict[str, Any]) -> list[bytes]:
        """For each event; the last one has the usage and no choices."""

    def error(self, error: RootstockError) -> list[bytes]:
        """When the answer breaks off."""

    async def end(self) -> None:
        """All frames but `last` are out, and the answer is whole."""

    def last(self) -> list[bytes]:
        """What says so."""


class Chunks:
    """The script of chat completions and completions: chunks, then `[DONE]`."""

    def __init__(self, kind: Kind, model: str, keeper: Keeper | None, *, include_usage: bool) -> None:
        self._shape = kind.piece
        self._model = model
        self._keeper = keeper
        self._include_usage = include_usage

    def begin(self) -> list[bytes]:
        """Nothing."""
        return []

    def event(self, event: dict[str, Any]) -> list[bytes]:
        """One chunk, without what vLLM says of usage in between."""
        last = not event["choices"]
        usage = shapes.usage(event.get("usage")) if last else None  # vLLM says with every chunk what its choice took
        chunk = self._shape(event, self._model)
        if self._keeper is not None:
            self._keeper.add(chunk, usage)
        if self._include_usage:
            return [frame({**chunk, "usage": usage})]
        return [] if last else [frame(chunk)]

    def error(self, error: RootstockError) -> list[bytes]:
        """The error object."""
        return [frame(error.body())]

    async def end(self) -> None:
        """Keep the answer, where that was asked for."""
        if self._keeper is not None:
            await self._keeper.finish()

    def last(self) -> list[bytes]:
        """`[DONE]`."""
        return [b"data: [DONE]\n\n"]


class Relay(Response):
    """Passes a stream on as its script says: together whatever has come together.

    However it ends, it hangs up upstream, gives `slot` back and tells `spent` once what the answer took.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        stream: CountedStream,
        script: Script,
        spent: Callable[[dict[str, Any] | None], Awaitable[None]],
        presence: Presence,
        slot: Slot,
    ) -> None:
        self.status_code = 200  # not by `Response`, which would say that there is no content
        self.init_headers({"cache-control": "no-cache"})
        self._stream = stream
        self._script = script
        self._spent: Callable[[dict[str, Any]], Awaitable[None]] | None = spent
        self._presence = presence
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream."""
        script, presence = self._script, self._presence
        try:
            with presence:
                frames, broken = await self._pass_on(send)
            if broken is None:  # a client that has all it waits for may hang up meanwhile
                await self._settle()
                await script.end()
                self._slot.close()  # before its client can know, who may ask again at once
            frames += script.last() if broken is None else script.error(broken)
            with presence:
                await self._send(send, {"type": "http.response.body", "body": b"".join(frames), "more_body": False})
        finally:
            presence.stop()
            self._slot.close()
            try:
                self._stream.close()
            finally:
                await self._settle()

    async def _pass_on(self, send: Send) -> tuple[list[bytes], RootstockError | None]:
        """Everything but the end: what is still to be sent, and why the answer broke off if it did."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await self._send(send, start)
        script, stream = self._script, self._stream
        frames = script.begin()
        try:
            while events := await stream.more():
                for event in events:
                    stream.count(event)
                    if "error" in event:
                        return frames, _stream_error(event["error"])
                    frames += script.event(event)
                if frames:
                    body, frames = b"".join(frames), []
                    await self._send(send, {"type": "http.response.body", "body": body, "more_body": True})
        except RootstockError as error:
            return frames, error
        except (AttributeError, LookupError, TypeError, ValueError):  # no event of vLLM's
            log.exception("the engine's answer is malformed")
            return frames, ServerError()
        return frames, None

    async def _send(self, send: Send, message: Message) -> None:
        self._presence.sending_since = asyncio.get_running_loop().time()
        await send(message)
        self._presence.sending_since = None

    async def _settle(self) -> None:
        spent, self._spent = self._spent, None
        if spent is not None:
            await spent(self._stream.usage)


def _stream_error(error: Any) -> RootstockError:
    message = error.get("message") if isinstance(error, dict) else None
    return Unavailable(f"The model stopped answering: {str(message or 'internal error')[:200]}")


def frame(value: dict[str, Any]) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
