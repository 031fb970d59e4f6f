"""A customer's grader over a teacher's answers, in threads beside the event loop that asks. Knows no rows."""

import asyncio
from typing import Any

from pydantic import ValidationError

from rootstock.distil import Answer, Outcome, Prompt
from rootstock.errors import JudgeUnavailable, RootstockError
from rootstock.grading import PythonRunner, Sample, compile_grader
from rootstock.records import Caller
from rootstock.usage import Amounts
from service.gateway import CHAT, Gateway
from service.wire_inference import ChatRequest

DEFAULT_TOKENS = 1024
"""The longest answer of a judge where the grader names none."""


class Grading:
    """The grader of one distillation. `run` may be called for many answers at a time. Close it."""

    def __init__(self, gateway: Gateway, caller: Caller, wanted: dict[str, Any], python: PythonRunner) -> None:
        self._gateway = gateway
        self._caller = caller
        self._python = python
        self._grader = compile_grader(wanted["grader"], python=self._python, at="filters.grader.grader")
        self._least = wanted["min_score"]

    async def run(self, prompt: Prompt, answer: Answer) -> tuple[Outcome, float | None, dict[str, Amounts]]:
        """What the grader makes of an answer: the outcome, the score, and what its questions to models took."""
        judge = _Judge(self._gateway, self._caller, asyncio.get_running_loop())
        said = answer.message
        sample = Sample.of(said.get("content") or "", tools=said.get("tool_calls"))
        grade = await asyncio.to_thread(self._grader.grade, {**prompt.item, "messages": prompt.messages}, sample, judge)
        if grade.failed is not None:
            return Outcome.UNGRADED, None, judge.spent
        outcome = Outcome.KEPT if grade.reward >= self._least else Outcome.LOW_SCORE
        return outcome, grade.reward, judge.spent

    def close(self) -> None:
        """End the processes of Python graders."""
        self._python.close()


class _Judge:
    """Asks models that grade, for one answer; called from a thread."""

    def __init__(self, gateway: Gateway, caller: Caller, loop: asyncio.AbstractEventLoop) -> None:
        self._gateway = gateway
        self._caller = caller
        self._loop = loop
        self.spent: dict[str, Amounts] = {}

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
            asking = self._gateway.complete(CHAT, request, self._caller)
            answer = asyncio.run_coroutine_threadsafe(asking, self._loop).result()
        except ValidationError as error:
            raise JudgeUnavailable(f"The model '{model}' cannot be asked so: {error.errors()[0]['msg']}.") from None
        except RootstockError as error:
            raise JudgeUnavailable(error.message) from error
        counted = answer.get("usage") or {}
        took = Amounts(1, 0, counted.get("prompt_tokens") or 0, counted.get("completion_tokens") or 0)
        self.spent[answer["model"]] = self.spent.get(answer["model"], Amounts()) + took
        return answer["choices"][0]["message"]["content"] or ""
