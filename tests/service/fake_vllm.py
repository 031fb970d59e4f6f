"""A stand-in for vLLM's HTTP routes, with the faults that the real one shows only under stress. No model inside.

Answers have the keys that vLLM 0.32 sends, its own extras included, so that tests see what must be stripped.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

CONTEXT_FULL = (
    "This model's maximum context length is 512 tokens. However, your prompt contains 600 input tokens, which exceeds "
    "this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=600)"
)


def refusal(status: int, message: str, param: str | None = None) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "BadRequestError", "param": param, "code": status}}


@dataclass
class FakeVllm:
    """Set the faults, read what arrived."""

    models: list[str] = field(default_factory=lambda: ["rootstock-tiny", "identity-lora"])
    refuse: tuple[int, dict[str, Any]] | None = None
    refuse_some: Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None] = lambda _: None
    answers: Callable[[dict[str, Any]], str] | None = None
    """What is answered to a request that is not streamed, where it is not `words`."""

    words: tuple[str, ...] = ("Hel", "lo ", "wörld")
    break_after: int | None = None
    error_after: int | None = None
    hang: bool = False
    stall: bool = False
    """Hang before the first byte, as with a full queue; `hang` lets a stream say its words first."""

    answer_id: str = "chatcmpl-1"
    healthy: bool = True
    looks_until_healthy: int | None = None
    received: list[dict[str, Any]] = field(default_factory=list)
    asked_from: list[Any] = field(default_factory=list)
    """The other end of the connection of each request in `received`."""

    running: int = 0
    unwell: bool = False
    """The engine is dead, and the server in front of it still answers."""

    door: dict[str, Any] | None = None
    """What `/rootstock/state` tells; without it there is no door. `kept` in it is what a gateway asked for."""

    def app(self) -> ASGIApp:
        """The server, or in a subclass several."""
        return self.alone()

    def alone(self) -> Starlette:
        """This server."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/load_lora_adapter", self._health, methods=["POST"]),
                Route("/rootstock/state", self._state),
                Route("/rootstock/keep", self._keep, methods=["PUT"]),
            ]
        )

    async def _health(self, _: Request) -> Response:
        if self.looks_until_healthy is not None:
            self.looks_until_healthy -= 1
            self.healthy = self.healthy or self.looks_until_healthy <= 0
        return Response(status_code=200 if self.healthy and not self.unwell else 503)

    async def _state(self, _: Request) -> Response:
        if not self.healthy:
            return Response(status_code=503)
        return JSONResponse(self.door) if self.door is not None else Response(status_code=404)

    async def _keep(self, request: Request) -> Response:
        assert self.door is not None
        self.door["kept"] = (await request.json())["adapters"]
        return JSONResponse(self.door)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "root": "/secret/path"} for name in self.models]})

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        body = await request.json()
        self.received.append(body)
        self.asked_from.append(request.client)
        if refused := self.refuse or self.refuse_some(body):
            return JSONResponse(refused[1], status_code=refused[0])
        if self.stall:
            await self._hang(request)
        if body.get("stream"):
            return StreamingResponse(self._stream(body, chat=chat), media_type="text/event-stream")
        if self.hang:
            await self._hang(request)
        text = "".join(self.words) if self.answers is None else self.answers(body)
        extras = {"stop_reason": None, "token_ids": None, "routed_experts": None}
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"} | extras
        message = {"role": "assistant", "content": text, "refusal": None, "reasoning": None, "annotations": None}
        choice |= {"message": message} if chat else {"text": text, "prompt_logprobs": None, "prompt_token_ids": None}
        return JSONResponse(
            self._envelope(body, "chat.completion" if chat else "text_completion")
            | {"choices": [choice], "usage": self._usage(), "prompt_logprobs": None, "kv_transfer_params": None}
        )

    async def _stream(self, body: dict[str, Any], *, chat: bool) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            envelope = self._envelope(body, "chat.completion.chunk" if chat else "text_completion")
            deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}] if chat else []
            deltas += [{"content": word} for word in self.words]
            for number, delta in enumerate(deltas):
                if self.break_after == number:
                    raise ConnectionResetError("the engine died")
                if self.error_after == number:
                    yield _frame(refusal(500, "EngineCore died")[1])
                    yield b"data: [DONE]\n\n"
                    return
                last = number == len(deltas) - 1
                reason = "stop" if last else None
                choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason, "token_ids": None}
                choice |= {"delta": delta} if chat else {"text": delta["content"], "stop_reason": None}
                usage = self._usage(number if chat else number + 1)  # a chat begins with a chunk of no token
                so_far = {"usage": usage} if body.get("stream_options", {}).get("continuous_usage_stats") else {}
                yield _frame(envelope | {"choices": [choice], "prompt_token_ids": None} | so_far)
                await asyncio.sleep(0)
            if self.hang:
                await asyncio.Event().wait()
            yield _frame(envelope | {"choices": [], "usage": self._usage()})
            yield b"data: [DONE]\n\n"
        finally:
            self.running -= 1

    async def _hang(self, request: Request) -> None:
        self.running += 1
        try:
            while (await request.receive())["type"] != "http.disconnect":
                pass
        finally:
            self.running -= 1

    def _envelope(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        mine = {"model": body["model"], "system_fingerprint": "vllm-0.32.0-cafe"}
        return {"id": self.answer_id, "object": kind, "created": 1} | mine

    def _usage(self, words: int | None = None) -> dict[str, Any]:
        count = len(self.words) if words is None else words
        return {
            "prompt_tokens": 5,
            "completion_tokens": count,
            "total_tokens": 5 + count,
            "prompt_tokens_details": None,
        }


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def by_host(fakes: Mapping[str, FakeVllm]) -> ASGIApp:
    """Several servers as one application, told apart by host name; one that is not (or no longer) there is away."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        host = urlsplit(f"//{Headers(scope=scope)['host']}").hostname or ""
        if host not in fakes:
            raise ConnectionResetError("gone")
        await fakes[host].alone()(scope, receive, send)

    return dispatch
