"""The judge of model graders in a worker: asks from a grading thread, with patience, and notes what was said.

Knows no grader and no row.
"""

import asyncio
import concurrent.futures
from collections import Counter, defaultdict
from typing import Any

from pydantic import ValidationError

from rootstock.errors import JudgeUnavailable, RootstockError
from rootstock.evals.records import ASKED
from service.batching.asking import Asker
from service.gateway import CHAT
from service.judge import DEFAULT_TOKENS
from service.wire_inference import ChatRequest


class Counts:
    """What was asked for one item, by model."""

    def __init__(self) -> None:
        self._sums: dict[str, Counter[str]] = defaultdict(Counter)

    def answered(self, model: str, usage: dict[str, Any] | None) -> dict[str, int]:
        """Count one answer; its tokens."""
        found = usage or {}
        tokens = {
            "prompt_tokens": found.get("prompt_tokens") or 0,
            "completion_tokens": found.get("completion_tokens") or 0,
            "total_tokens": found.get("total_tokens") or 0,
            "cached_tokens": (found.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        }
        self._sums[model].update({"invocation_count": 1} | tokens)
        return tokens

    def failed(self, model: str) -> None:
        """Count one question that got no answer."""
        self._sums[model].update({"invocation_count": 1, "failed_count": 1})

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Model -> `ASKED`."""
        return {model: {name: sums[name] for name in ASKED} for model, sums in self._sums.items()}


class PatientJudge:
    """For one criterion of one item. `said` is the conversation, once there was one."""

    def __init__(self, asker: Asker, loop: asyncio.AbstractEventLoop, counts: Counts) -> None:
        self._asker = asker
        self._loop = loop
        self._counts = counts
        self.said: dict[str, Any] | None = None

    def ask(
        self, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any], schema: dict[str, Any] | None
    ) -> str:
        """The model's answer. Raises `JudgeUnavailable` for whatever keeps it from answering."""
        body: dict[str, Any] = {"max_completion_tokens": DEFAULT_TOKENS} | sampling
        if schema is not None:
            form = {"name": "grade", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        self.said = {"model": model, "input": messages, "output": []}
        try:
            request = ChatRequest.model_validate(body | {"model": model, "messages": messages})
        except ValidationError as error:
            first = error.errors()[0]
            raise JudgeUnavailable(
                f"The model '{model}' cannot be asked so: '{first['loc'][0]}' {first['msg']}."
            ) from None
        try:
            answer = asyncio.run_coroutine_threadsafe(self._asker.patiently(CHAT, request), self._loop).result()
        except RootstockError as error:
            self._counts.failed(model)
            raise JudgeUnavailable(error.message) from error
        except concurrent.futures.CancelledError:
            raise JudgeUnavailable("The worker is stopping.") from None
        choice = answer["choices"][0]
        text: str = choice["message"]["content"] or ""
        tokens = self._counts.answered(answer["model"], answer.get("usage"))
        self.said |= {
            "model": answer["model"],
            "output": [{"role": "assistant", "content": text}],
            "finish_reason": choice["finish_reason"],
            "usage": tokens,
        }
        return text
