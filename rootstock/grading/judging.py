"""Asking a model to grade: the form of the question and of its answer. Knows no HTTP; a `Judge` does the asking."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

from rootstock.errors import JudgeUnavailable
from rootstock.grading.outcome import Flag, GradingFailed, Sample
from rootstock.grading.templates import Template

_STEPS: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
        "required": ["description", "conclusion"],
        "additionalProperties": False,
    },
}


class Judge(Protocol):
    """Something that puts messages to a model."""

    def ask(
        self, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any], schema: dict[str, Any] | None
    ) -> str:
        """The text of the model's answer, which should be JSON of this schema.

        `messages` and `sampling` are as in the chat API. Raises `JudgeUnavailable`.
        """
        ...


@dataclass(frozen=True)
class Question:
    """What a model grader asks."""

    model: str
    messages: tuple[tuple[str, tuple[Template, ...]], ...]
    """(role, parts) in order."""

    sampling: dict[str, Any]

    def score(self, item: dict[str, Any], sample: Sample, judge: Judge | None, lowest: float, highest: float) -> float:
        """The number that the model gives, as it gave it. Raises `GradingFailed`."""
        wish = f"'result' is a number from {lowest:g} to {highest:g}."
        result = self._ask(item, sample, judge, {"type": "number"}, wish)
        if isinstance(result, bool) or not isinstance(result, int | float):
            raise GradingFailed(Flag.JUDGE_PARSE, f"The model '{self.model}' gave no number as 'result'.")
        try:
            return float(result)
        except OverflowError:
            raise GradingFailed(Flag.JUDGE_PARSE, f"The model '{self.model}' gave a 'result' beyond measure.") from None

    def label(self, item: dict[str, Any], sample: Sample, judge: Judge | None, labels: tuple[str, ...]) -> str:
        """The label that the model chooses. Raises `GradingFailed`."""
        wish = f"'result' is one of {json.dumps(list(labels), ensure_ascii=False)}."
        result = self._ask(item, sample, judge, {"type": "string", "enum": list(labels)}, wish)
        if not isinstance(result, str) or result not in labels:
            raise GradingFailed(Flag.JUDGE_PARSE, f"The model '{self.model}' chose none of the labels.")
        return result

    def _ask(self, item: dict[str, Any], sample: Sample, judge: Judge | None, kind: dict[str, Any], wish: str) -> Any:
        messages = self._rendered(item, sample, wish)
        if judge is None:
            raise GradingFailed(Flag.JUDGE_SERVER, f"There is no model here to ask for '{self.model}'.")
        # The reasoning comes first, so that the result can follow from it.
        schema = {
            "type": "object",
            "properties": {"steps": _STEPS, "result": kind},
            "required": ["steps", "result"],
            "additionalProperties": False,
        }
        try:
            answer = judge.ask(self.model, messages, dict(self.sampling), schema)
        except JudgeUnavailable as away:
            raise GradingFailed(Flag.JUDGE_SERVER, away.message) from away
        try:
            parsed = json.loads(answer)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict) or "result" not in parsed:
            raise GradingFailed(Flag.JUDGE_PARSE, f"The model '{self.model}' did not answer with the JSON asked for.")
        return parsed["result"]

    def _rendered(self, item: dict[str, Any], sample: Sample, wish: str) -> list[dict[str, Any]]:
        messages = [
            # Chat templates of open models know no developer.
            {
                "role": "system" if role == "developer" else role,
                "content": "\n".join(part.render(item, sample) for part in parts),
            }
            for role, parts in self.messages
        ]
        form = (
            "Answer with one JSON object and nothing else: 'steps', a list of your steps of reasoning, each with a "
            f"'description' and a 'conclusion'; then 'result'. {wish}"
        )
        # Not as a system message of its own: some chat templates allow one at the beginning only.
        if messages[-1]["role"] == "user":
            messages[-1]["content"] += f"\n\n{form}"
        else:
            messages.append({"role": "user", "content": form})
        return messages
