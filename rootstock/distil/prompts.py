"""What a teacher is asked: prompts out of lines and stored completions, drawn by a seed when there are too many.

Knows no teacher and no filter.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

from rootstock.datasets.parse import Fault, parse_object
from rootstock.datasets.shapes import PROMPT_KEYS, check_example
from rootstock.records import CompletionRecord, DataFormat

_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a prompt: the assistant's message and why it ended, or the `error` in place of both."""

    message: dict[str, Any]
    finish_reason: str | None
    error: str | None = None
    score: float | None = None  # a grader's, where one was asked for

    def to_json(self) -> str:
        """As it is kept in a row."""
        return _compact({name: getattr(self, name) for name in ("message", "finish_reason", "error", "score")})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question: the messages before the answer, and what the answer must keep to.

    `item` is whatever else its line held, for graders to compare with. `own` is the answer that came with it, from a
    stored completion.
    """

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    item: dict[str, Any] = field(default_factory=dict)
    own: Answer | None = None

    def keeping_to(self, form: dict[str, Any] | None) -> Self:
        """The same, held to this response format unless it names its own."""
        return self if form is None or self.response_format is not None else replace(self, response_format=form)

    @property
    def asked(self) -> dict[str, Any]:
        """What is put to a teacher: two prompts are the same when theirs are equal."""
        found = {"messages": self.messages, "tools": self.tools, "response_format": self.response_format}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def digest(self) -> bytes:
        """16 bytes that stand for what is asked."""
        text = json.dumps(self.asked, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def to_json(self) -> str:
        """As it is kept in a row, without the answer."""
        return _compact(self.asked | {"item": self.item})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""
        return cls(**json.loads(text))

    @classmethod
    def of(cls, line: dict[str, Any]) -> Self:
        """The prompt of a chat line; an answer at its end is left out. Raises `Fault` for what cannot be asked."""
        messages = line.get("messages")
        if isinstance(messages, list):
            while messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
                messages = messages[:-1]
        given = {key: line[key] for key in PROMPT_KEYS & line.keys() if line[key] is not None}
        given["messages"] = _learnable(messages)
        check_example(given, DataFormat.PROMPTS)
        form = line.get("response_format")
        if not isinstance(form, dict | None):
            raise Fault(", 'response_format' must be an object")
        rest = {key: value for key, value in line.items() if key not in PROMPT_KEYS | {"response_format"}}
        return cls(given["messages"], given.get("tools"), form, rest)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """As `of`, from the bytes of a line."""
        return cls.of(parse_object(data))

    @classmethod
    def stored(cls, completion: CompletionRecord) -> Self:
        """The question of a stored completion, with its answer. Raises `Fault`."""
        asked = completion.request
        prompt = cls.of({key: asked.get(key) for key in ("messages", "tools", "response_format")})
        choice = completion.response["choices"][0]
        own = Answer(choice["message"], choice.get("finish_reason"))
        return cls(prompt.messages, prompt.tools, prompt.response_format, {}, own)


@dataclass(slots=True)
class Drawn:
    """Which prompts of a source are asked, and why the others are not."""

    chosen: set[bytes]
    invalid: int
    repeated: int
    left_out: int

    def of(self, prompts: Iterable[Prompt | None]) -> Iterator[tuple[int, Prompt]]:
        """The chosen ones with their places in the source, from 1: each once, where it stands first."""
        missing = set(self.chosen)
        for number, prompt in enumerate(prompts, 1):
            if prompt is not None and (digest := prompt.digest) in missing:
                missing.remove(digest)
                yield number, prompt


def draw(source: Callable[[], Iterable[Prompt | None]], most: int, seed: int) -> Drawn:
    """Choose `most` of the different prompts of a source, or all when they are fewer; `None` in it is no prompt.

    The same source and seed give the same choice. Memory: a digest for each different prompt.
    """
    seen: dict[bytes, None] = {}
    invalid = repeated = 0
    for prompt in source():
        if prompt is None:
            invalid += 1
        elif (digest := prompt.digest) in seen:
            repeated += 1
        else:
            seen[digest] = None
    chosen = list(seen)
    if len(chosen) > most:
        chosen = random.Random(seed).sample(chosen, most)
    return Drawn(set(chosen), invalid, repeated, len(seen) - len(chosen))


def _learnable(messages: Any) -> Any:
    """Messages with the keys of training data only, and none that says nothing."""
    if not isinstance(messages, list):
        return messages
    return [
        {key: message[key] for key in _MESSAGE_KEYS if message.get(key) is not None}
        if isinstance(message, dict)
        else message
        for message in messages
    ]


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))  # ASCII: half a surrogate pair cannot be stored
