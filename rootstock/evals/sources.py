"""The items of a run: lines of JSON, or stored completions; checked, and as graders see them.

Knows no store, no rows but the completions', and no HTTP.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import msgspec

from rootstock.errors import InvalidRequest, InvalidType, InvalidValue, MissingParameter, UnknownParameter
from rootstock.grading import Sample
from rootstock.records import CompletionRecord

MAX_ITEMS = 50_000
"""Of one run."""

MAX_SCHEMA_ERROR_CHARS = 300

_ANYTHING: dict[str, Any] = {"type": "object"}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["assistant"]},
        "content": {"type": ["string", "array", "null"]},
        "refusal": {"type": ["boolean", "string", "null"]},
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
    },
    "required": ["role"],
}
_SAMPLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"message": _MESSAGE, "finish_reason": {"type": "string"}},
                "required": ["index", "message", "finish_reason"],
            },
        },
        "output_text": {"type": "string"},
        "output_json": {"type": "object"},
        "output_tools": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["model", "choices"],
}


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a run."""

    number: int  # 1-based place in the source
    item: dict[str, Any]
    sample: dict[str, Any] | None = None  # the answer, where it came with the item

    def line(self) -> bytes:
        """As a line of a source."""
        whole = {"item": self.item} | ({} if self.sample is None else {"sample": self.sample})
        return json.dumps(whole, separators=(",", ":")).encode() + b"\n"


def line_schema(item_schema: dict[str, Any] | None, *, with_sample: bool) -> dict[str, Any]:
    """The schema of a whole line, as the API answers it; `None`: items of stored completions."""
    properties = {"item": item_schema or _ANYTHING} | ({"sample": _SAMPLE} if with_sample else {})
    return {"type": "object", "properties": properties, "required": list(properties)}


class ItemSchema:
    """What every item must be like."""

    def __init__(self, schema: dict[str, Any], at: str = "data_source_config.item_schema") -> None:
        """Raises `InvalidValue` (param `at`) for what is no schema, or one that names schemas elsewhere."""
        try:
            # Offline: a reference to an address would be fetched from inside our network.
            self._validator = jsonschema_rs.validator_for(schema, offline=True)
        except (ValueError, RecursionError) as error:
            why = str(error).split("\n")[0][:MAX_SCHEMA_ERROR_CHARS]
            raise InvalidValue(f"Invalid '{at}': it is no JSON schema: {why}.", param=at) from None

    @classmethod
    def of(cls, data_source_config: dict[str, Any]) -> "ItemSchema":
        """That of an eval, as it is stored."""
        return cls(data_source_config["schema"]["properties"]["item"])

    def check(self, item: dict[str, Any], at: str) -> None:
        """Raises `InvalidValue` (param: the place below `at`) for an item that does not fit."""
        try:
            error = next(self._validator.iter_errors(item), None)
        except ValueError as failure:  # a pattern that gives up on this text
            raise InvalidValue(f"Invalid '{at}': it cannot be checked: {failure}.", param=at) from None
        if error is not None:
            place = at + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.instance_path)
            why = error.message[:MAX_SCHEMA_ERROR_CHARS]
            raise InvalidValue(f"Invalid '{place[:200]}': by the item_schema of this eval, {why}.", param=place[:200])


def of_lines(
    lines: Iterable[tuple[int, bytes | None]], schema: ItemSchema, at: str = "data_source.source.id"
) -> Iterator[Item]:
    """The items of a file's lines, numbered as the lines are; blank lines are passed over.

    Raises `InvalidRequest` or one of its classes (param `at`) for the first line that is none.
    """
    for number, line in lines:
        if line is None or line.strip():
            yield _of_line(number, line, schema, at)


def of_content(content: list[dict[str, Any]]) -> Iterator[Item]:
    """The items that came with the request, which were checked then."""
    for number, line in enumerate(content, 1):
        yield Item(number, line["item"], line.get("sample"))


def of_completion(number: int, record: CompletionRecord) -> Item:
    """A stored completion: what was asked as the item (`input`), what was answered as the sample."""
    asked = record.request
    item = {
        "completion_id": record.id,
        "input": asked.get("messages", []),
        "model": record.model,
        "metadata": record.metadata or {},
    }
    item |= {"tools": asked["tools"]} if asked.get("tools") else {}
    said = record.response
    sample = {"model": record.model, "choices": said.get("choices", []), "usage": said.get("usage")}
    return Item(number, item, sample)


def sample_of(given: dict[str, Any] | None) -> Sample:
    """An answer as graders see it; without one, a sample that has nothing."""
    if given is None:
        return Sample.nothing()
    choices = given.get("choices")
    choices = choices if isinstance(choices, list) else []
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    message = message if isinstance(message, dict) else {}
    text = given.get("output_text")
    if not isinstance(text, str):
        text = message.get("content") if isinstance(message.get("content"), str) else None
    tools = given.get("output_tools")
    if not isinstance(tools, list):
        tools = message.get("tool_calls") if isinstance(message.get("tool_calls"), list) else []
    if text is None and not choices and not tools:
        return Sample.nothing()
    return Sample.of(text or "", tools=tools, choices=choices)


def _of_line(number: int, line: bytes | None, schema: ItemSchema, at: str) -> Item:
    where = f"Line {number} of the file"
    if line is None:
        raise InvalidValue(f"{where} is longer than is allowed here.", param=at)
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"{where} is not JSON: {error}.", param=at) from None
    if not isinstance(found, dict):
        raise InvalidType(f'{where} is no object. Write {{"item": {{…}}}} on each line.', param=at)
    if strange := sorted(set(found) - {"item", "sample"}):
        raise UnknownParameter(
            f"{where} has the key '{strange[0][:64]}'. Write all that belongs to it into 'item'.", param=at
        )
    if "item" not in found:
        raise MissingParameter(f"{where} has no 'item'. Write {{\"item\": {{…}}}} on each line.", param=at)
    sample = found.get("sample")
    if not isinstance(found["item"], dict) or not (sample is None or isinstance(sample, dict)):
        raise InvalidType(f"{where}: 'item' and 'sample' must be objects.", param=at)
    try:
        schema.check(found["item"], "item")
    except InvalidValue as error:
        raise InvalidValue(f"{where}: {error.message}", param=at) from None
    return Item(number, found["item"], sample)
