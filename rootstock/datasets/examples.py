"""A checked file, read again as plain examples in one modern shape, for the trainer. Knows nothing about tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rootstock.datasets.check import BLANKS
from rootstock.datasets.lines import BOM
from rootstock.datasets.parse import Fault, parse_object
from rootstock.datasets.shapes import PREFERENCE_OUTPUTS, PROMPT_KEYS, check_example, recognise
from rootstock.errors import JobFailure
from rootstock.records import DataFormat

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One example: `messages` (with what belongs to them), or `prompt` and `completion`, or a preference, or a prompt.

    A preference has in `messages` what was asked, and the two outputs to it in `preferred` and `non_preferred`.
    A prompt to be answered has in `item` what graders compare the answer with.
    In messages the deprecated `functions`, `function_call` and role `function` have become tools; assistant messages
    always carry their `weight`; absent and null read the same. Content is a string, `None`, or several text parts:
    those stay apart because chat templates differ in how they join them. Tool arguments stay a JSON string.
    """

    line: int
    messages: list[Json] | None = None
    tools: list[Json] | None = None
    parallel_tool_calls: bool | None = None
    prompt: str | None = None
    completion: str | None = None
    preferred: list[Json] | None = None
    non_preferred: list[Json] | None = None
    item: Json | None = None


def read_examples(lines: Iterable[bytes]) -> Iterator[Example]:
    """The examples of a file of any format, line by line (with or without line ends).

    Raises `JobFailure` at a line that the check cannot have accepted: the object is not the file that was checked.
    """
    known: DataFormat | None = None
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(BOM) if number == 1 else line
        if text.strip(BLANKS + b"\n"):
            example, known = _read(number, text, known)
            yield example


def _read(number: int, line: bytes, known: DataFormat | None) -> tuple[Example, DataFormat]:
    try:
        found = parse_object(line)
        form = recognise(found, known)
        check_example(found, form)
        if known not in (None, form):
            raise Fault(f" is in the {form} format, but the examples before it are in the {known} format")
    except Fault as fault:
        text = fault.text if fault.whole else f"Invalid file format. Line {number}{fault.text}"
        raise JobFailure(fault.code, f"The job failed due to an invalid file. {text}") from None
    return as_example(number, found, form), form


def as_example(number: int, found: Json, form: DataFormat) -> Example:
    """The example that a checked object of this format is."""
    if form is DataFormat.COMPLETIONS:
        return Example(number, prompt=found["prompt"], completion=found["completion"])
    outputs: list[list[Json] | None] = [None, None]
    talk = found
    if form is DataFormat.PREFERENCE:
        talk = found["input"]
        outputs = [_messages(found[key]) for keys in PREFERENCE_OUTPUTS for key in keys if key in found]
    functions = [{"type": "function", "function": function} for function in talk.get("functions") or ()]
    return Example(
        number,
        messages=_messages(talk["messages"]),
        tools=[*(talk.get("tools") or ()), *functions] or None,
        parallel_tool_calls=talk.get("parallel_tool_calls"),
        preferred=outputs[0],
        non_preferred=outputs[1],
        item={key: value for key, value in found.items() if key not in PROMPT_KEYS}
        if form is DataFormat.PROMPTS
        else None,
    )


def _messages(given: list[Json]) -> list[Json]:
    messages: list[Json] = []
    called = "call_0"  # the id we gave to the latest deprecated function call
    for number, message in enumerate(given, 1):
        kept = {key: value for key, value in message.items() if value is not None}
        kept["content"] = _content(kept.get("content", kept.pop("refusal", None)))
        if message["role"] == "assistant":
            kept["weight"] = int(kept.get("weight", 1))
            if call := kept.pop("function_call", None):
                called = f"call_{number}"
                kept["tool_calls"] = [
                    *kept.get("tool_calls", ()),
                    {"id": called, "type": "function", "function": call},
                ]
        elif message["role"] == "function":
            kept |= {"role": "tool", "tool_call_id": called}
        messages.append(kept)
    return messages


def _content(content: Any) -> str | list[Json] | None:
    if not isinstance(content, list):
        return content  # type: ignore[no-any-return]
    texts = [{"type": "text", "text": part[part["type"]]} for part in content]
    return texts[0]["text"] if len(texts) == 1 else texts
