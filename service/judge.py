"""The judge of model graders in this process: the gateway, asked from a thread. Knows no grader."""

from collections import Counter, defaultdict
from typing import Any

from anyio import from_thread
from pydantic import ValidationError

from rootstock.errors import JudgeUnavailable, RootstockError
from rootstock.records import Caller
from service.deps import Parts
from service.gateway import CHAT, Gateway
from service.limits import estimate
from service.wire_inference import ChatRequest

DEFAULT_TOKENS = 1024
"""The longest answer of a judge where the grader names none: reasoning in steps, and an end to it."""


class GatewayJudge:
    """Asks as the caller would: models that it may use, within its rate limits. For one request, in a worker thread."""

    def __init__(self, parts: Parts, caller: Caller) -> None:
        self._parts = parts
        self._caller = caller
        self._gateway = Gateway(parts.settings, parts.db, parts.upstream, parts.meter)
        self.usage: dict[str, Counter[str]] = defaultdict(Counter)
        """Model -> tokens by kind, of all questions so far."""

    def ask(
        self, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any], schema: dict[str, Any] | None
    ) -> str:
        """The model's answer. Raises `JudgeUnavailable` for whatever keeps it from answering."""
        body: dict[str, Any] = {"max_completion_tokens": DEFAULT_TOKENS} | sampling
        if schema is not None:
            form = {"name": "grade", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            request = ChatRequest.model_validate(body | {"model": model, "messages": messages})
            return from_thread.run(self._answer, request)
        except ValidationError as error:
            first = error.errors()[0]
            raise JudgeUnavailable(
                f"The model '{model}' cannot be asked so: '{first['loc'][0]}' {first['msg']}."
            ) from None
        except RootstockError as error:
            raise JudgeUnavailable(error.message) from error

    async def _answer(self, request: ChatRequest) -> str:
        tokens = estimate(request.model_dump(include={"messages"}), request.max_completion_tokens or 0)
        with self._parts.limits.slot(self._caller, request.model):
            await self._parts.limits.inference(self._caller, request.model, tokens)
            answer = await self._gateway.complete(CHAT, request, self._caller)
        usage = answer.get("usage") or {}
        await self._parts.limits.spent(self._caller, tokens, usage)
        for kind in ("prompt_tokens", "completion_tokens", "total_tokens"):
            self.usage[request.model][kind] += usage.get(kind) or 0
        return answer["choices"][0]["message"]["content"] or ""
