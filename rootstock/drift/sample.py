"""One call of a model as a watch sees it: the system prompt, what the user said last, the answer; cut to a length.

Training examples become the calls that they teach. Knows no profile and no database.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rootstock.datasets import Example

MAX_CHARS = 4096
"""Of a prompt, an answer that is text, and a system prompt: what is beyond is not looked at."""

MAX_TURNS = 4
"""Of one example: a conversation of a hundred turns may not outweigh a hundred others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call. `answer` is `None` where none is known; `calls` are the names of the tools it wants to be called."""

    prompt: str
    system: str = ""
    answer: str | None = None
    calls: tuple[str, ...] = ()
    cut: bool = False  # the answer is longer than what is here, so its shape cannot be judged

    @classmethod
    def of(cls, prompt: str, system: str, answer: str | None, calls: tuple[str, ...] = ()) -> "Sample":
        """A call of texts of any length."""
        cut = answer is not None and len(answer) > MAX_CHARS
        return cls(prompt[:MAX_CHARS], system[:MAX_CHARS], answer and answer[:MAX_CHARS], calls, cut)


def taught(example: Example) -> list[Sample]:
    """The calls that an example teaches: one for each answer that is trained on, the last `MAX_TURNS` of them.

    A prompt of a reinforcement set is one call without an answer.
    """
    if example.prompt is not None:
        return [Sample.of(example.prompt, "", example.completion)]
    messages = example.messages or []
    if example.preferred is not None or example.item is not None:
        return [_call(messages, example.preferred[-1] if example.preferred else None)]
    return list(_answers(messages))[-MAX_TURNS:]


def text(content: Any) -> str:
    """The text of a message's content: a string, `None`, or several parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _answers(messages: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and message.get("weight", 1):
            yield _call(messages[:number], message)


def _call(asked: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None) -> Sample:
    user = next((text(m.get("content")) for m in reversed(asked) if m["role"] == "user"), "")
    system = "\n".join(text(m.get("content")) for m in asked if m["role"] in ("system", "developer"))
    if answer is None:
        return Sample.of(user, system, None)
    calls = tuple(call["function"]["name"] for call in answer.get("tool_calls") or ())
    return Sample.of(user, system, text(answer.get("content")), calls)
