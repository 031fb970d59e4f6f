"""An example as a question with its right answer, and examples as a prompt before it. Knows no metric and no model."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rootstock.datasets.examples import Example

Json = dict[str, Any]

_SENT = ("role", "content", "name", "tool_calls", "tool_call_id")
"""What of a training message a request may hold: `weight` is about training only."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a model, and the answer that its owner wants. Either `messages` or `prompt`."""

    line: int  # 1-based, in the file that it is from
    reference: str
    messages: tuple[Json, ...] | None = None
    prompt: str | None = None
    tools: tuple[Json, ...] | None = None
    item: Json | None = None

    @property
    def bytes(self) -> int:
        """How long the request is, as JSON."""
        return len(json.dumps([self.messages, self.prompt, self.tools], ensure_ascii=False).encode())

    @property
    def shown(self) -> str:
        """What a person reads of it: the last thing that was said to the model."""
        if self.prompt is not None:
            return self.prompt
        return said(self.messages[-1]) if self.messages else ""


def question(example: Example) -> Question | None:
    """The example's last answer that is learned, and all that comes before it; `None` where there is none.

    Of a preference the answer is the preferred one. A prompt of reinforcement has none, only what graders see.
    """
    if example.prompt is not None:
        return Question(example.line, (example.completion or "").strip(), prompt=example.prompt)
    messages = example.messages or []
    tools = tuple(example.tools) if example.tools else None
    if example.preferred is not None:
        return Question(example.line, said(example.preferred[-1]), _sent(messages), tools=tools)
    if example.item is not None:
        return Question(example.line, "", _sent(messages), tools=tools, item=example.item)
    for place in range(len(messages) - 1, 0, -1):
        message = messages[place]
        if message["role"] == "assistant" and message.get("weight", 1):
            return Question(example.line, said(message), _sent(messages[:place]), tools=tools)
    return None


def said(message: Json) -> str:
    """The text of a message; of one that calls tools the calls, as JSON in a fixed order."""
    if calls := message.get("tool_calls"):
        told = [{"name": call["function"]["name"], "arguments": _arguments(call)} for call in calls]
        return json.dumps(told, ensure_ascii=False, sort_keys=True)
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""


def prompted(asked: Question, shots: Sequence[Question]) -> Question:
    """The same question with examples and their answers before it, behind the instructions that it begins with."""
    if asked.prompt is not None:
        before = "".join(f"{shot.prompt}{_gap(shot)}{shot.reference}\n\n" for shot in shots if shot.prompt is not None)
        return Question(asked.line, asked.reference, prompt=before + asked.prompt)
    messages = asked.messages or ()
    instructions = tuple(message for message in messages if message["role"] in ("system", "developer"))
    rest = tuple(message for message in messages if message["role"] not in ("system", "developer"))
    turns: list[Json] = []
    for shot in shots:
        turns += [message for message in shot.messages or () if message["role"] not in ("system", "developer")]
        turns.append({"role": "assistant", "content": shot.reference})
    told = (*instructions, *turns, *rest)
    return Question(asked.line, asked.reference, told, tools=asked.tools, item=asked.item)


def usable_shots(shots: Iterable[Question]) -> list[Question]:
    """Those that can stand in a prompt: a question of one turn, and an answer in text."""
    return [
        shot
        for shot in shots
        if shot.reference
        and not shot.tools
        and (shot.prompt is not None or all(m["role"] != "tool" for m in shot.messages or ()))
    ]


def _sent(messages: Iterable[Json]) -> tuple[Json, ...]:
    return tuple(
        {key: value for key, value in message.items() if key in _SENT and value is not None} for message in messages
    )


def _arguments(call: Json) -> Any:
    try:
        return json.loads(call["function"]["arguments"])
    except (ValueError, TypeError, RecursionError):
        return call["function"]["arguments"]


def _gap(shot: Question) -> str:
    return "" if (shot.prompt or "")[-1:].isspace() else " "
