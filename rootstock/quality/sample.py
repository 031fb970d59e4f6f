"""One line of a training file as the report looks at it: what is given, what is to be learnt. Knows no other line.

Every format comes to the same shape. Fast for plain chats; anything else goes through the full rules of
`rootstock.datasets`, whose faults are the report's.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rootstock.datasets.check import BLANKS, PlainChat
from rootstock.datasets.examples import Example, as_example
from rootstock.datasets.parse import Fault, Unparsable, parse_object
from rootstock.datasets.shapes import check_example, recognise
from rootstock.quality.kinds import Kind
from rootstock.records import DataFormat

Json = dict[str, Any]


class Silent(Fault):
    """An example whose assistant messages all have the weight 0."""


@dataclass(slots=True)
class Sample:
    """`given` is the conversation up to the answer; `answer` is the last thing that is learnt, `calls` its tool calls.

    `learnt` and `shown` are the characters that carry loss and those that do not. `rejected` is the worse answer of a
    preference, `item` what graders compare an answer with.
    """

    system: str = ""
    given: list[tuple[str, str]] = field(default_factory=list)
    answer: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    rejected: str | None = None
    item: Json | None = None
    tools: list[Json] | None = None
    refused: bool = False
    learnt: int = 0
    shown: int = 0
    texts: list[str] = field(default_factory=list)
    samples_answers: bool = False  # the model finds the answer itself: nothing in the line carries loss

    @property
    def prompt(self) -> str:
        """What is given without the system prompt."""
        return "\n".join(text for _, text in self.given)


class Reader:
    """Reads lines of one file; `form` is the format of its first readable line, once there is one."""

    def __init__(self, form: DataFormat | None = None) -> None:
        self.form = form
        self._plain = PlainChat()
        self._decode = msgspec.json.Decoder().decode

    def read(self, line: bytes) -> Sample | None:
        """The example on the line, `None` for a blank one. Raises `Fault` for what cannot be used."""
        if not line.strip(BLANKS + b"\n"):
            return None
        if self.form in (None, DataFormat.CHAT) and self._plain.accepts(line):
            self.form = DataFormat.CHAT
            return _chat([{**message, "weight": 1} for message in self._decode(line)["messages"]], None)
        found = parse_object(line.rstrip(b"\n"))
        form = recognise(found, self.form)
        self.form = self.form or form
        if form is not self.form:
            raise Fault(f" is in the {form} format, but the examples before it are in the {self.form} format")
        try:
            check_example(found, form)
        except Fault as fault:
            if fault.text.startswith(" has nothing to learn") and any(
                m["role"] == "assistant" for m in found["messages"]
            ):
                raise Silent(fault.text) from None
            raise
        return _of_example(as_example(0, found, form))


def kind_of(fault: Fault) -> Kind:
    """What a fault is called in the report."""
    if isinstance(fault, Silent):
        return Kind.NO_TRAINABLE_TOKENS
    return Kind.INVALID_JSON if isinstance(fault, Unparsable) else Kind.INVALID_EXAMPLE


def text_of(message: Json) -> str:
    """The text of a message, its parts joined."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def _of_example(example: Example) -> Sample:
    if example.messages is None:
        prompt, completion = example.prompt or "", example.completion or ""
        sample = Sample(given=[("user", prompt)], answer=completion, learnt=len(completion), shown=len(prompt))
        sample.texts = [prompt, completion]
        return sample
    if example.preferred is not None and example.non_preferred is not None:
        sample = _chat([*_silent(example.messages), *example.preferred], example.tools)
        rejected = [message for message in example.non_preferred if message["role"] == "assistant"]
        sample.rejected = "\n".join(_said(message) for message in rejected)
        sample.texts += [text_of(message) for message in rejected]
        return sample
    if example.item is not None:
        sample = _chat(_silent(example.messages), example.tools)
        sample.item, sample.samples_answers = example.item, True
        sample.answer = json.dumps(example.item, sort_keys=True, ensure_ascii=False) if example.item else ""
        sample.texts.append(sample.answer)
        return sample
    return _chat(example.messages, example.tools)


def _silent(messages: list[Json]) -> list[Json]:
    return [{**message, "weight": 0} if message["role"] == "assistant" else message for message in messages]


def _chat(messages: list[Json], tools: list[Json] | None) -> Sample:
    sample = Sample(tools=tools)
    last = max(
        (n for n, message in enumerate(messages) if message["role"] == "assistant" and message.get("weight", 1)),
        default=len(messages),
    )
    system = []
    for number, message in enumerate(messages):
        role, said = message["role"], text_of(message)
        sample.texts.append(said)
        whole = _said(message) if "tool_calls" in message else said
        if whole is not said:
            sample.texts += [call["function"]["arguments"] for call in message["tool_calls"]]
        if role == "assistant" and message.get("weight", 1):
            sample.learnt += len(whole)
        else:
            sample.shown += len(whole)
        if number == last:
            sample.answer = said
            sample.refused = message.get("refusal") is not None
            sample.calls = [
                (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
            ]
        elif role in ("system", "developer"):
            system.append(said)
        elif number < last:
            sample.given.append((role, whole))
    sample.system = "\n".join(system)
    return sample


def _said(message: Json) -> str:
    calls = [f"{call['function']['name']} {call['function']['arguments']}" for call in message.get("tool_calls", ())]
    return "\n".join([text_of(message), *calls]) if calls else text_of(message)
