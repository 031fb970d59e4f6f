"""A checked file, read again as plain examples in one modern shape, for the trainer. Knows nothing about tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rootstock.datasets.check import BLANKS
from rootstock.datasets.lines import BOM
from rootstock.datasets.parse import Fault, parse_object
from rootstock.datasets.shapes import UNEXPECTED, check_example, recognise
from rootstock.errors import JobFailure
from rootstock.records import DataFormat

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One example: either `messages` (with what belongs to them) or `prompt` and `completion`.

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


def read_examples(lines: Iterable[bytes]) -> Iterator[Example]:
    """The examples of a chat or prompt/completion file, line by line (with or without line ends).

    Raises `JobFailure` at a line that the check cannot have accepted: the object is not the file that was checked.
    """
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(BOM) if number == 1 else line
        if text.strip(BLANKS + b"\n"):
            yield _read(number, text)


def _read(number: int, line: bytes) -> Example:
    try:
        found = parse_object(line)
        form = recognise(found, None)
        check_example(found, form)
        if form is DataFormat.PREFERENCE:
            raise Fault(UNEXPECTED, whole=True)
    except Fault as fault:
        text = fault.text if fault.whole else f"Invalid file format. Line {number}{fault.text}"
        raise JobFailure(fault.code, f"The job failed due to an invalid file. {text}") from None
    if form is DataFormat.COMPLETIONS:
        return Example(number, prompt=found["prompt"], completion=found["completion"])
    functions = [{"type": "function", "function": function} for function in found.get("functions") or ()]
    return Example(
        number,
        messages=_messages(found["messages"]),
        tools=[*(found.get("tools") or ()), *functions] or None,
        parallel_tool_calls=found.get("parallel_tool_calls"),
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
