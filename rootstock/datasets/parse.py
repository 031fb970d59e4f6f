"""One line -> a JSON object, or the reason why not. Stricter than Python's `json` wherever readers disagree.

Refused: duplicate keys (some readers keep the first, some the last), NaN and infinities, numbers of absurd length,
lone surrogates and NUL (they crash far from the cause), deep nesting. Knows nothing about training data.
"""

import json
import math
from typing import Any

MAX_DEPTH = 32
"""How deep arrays and objects may be nested, the example itself being 1."""

_MAX_DIGITS = 300
_SHOWN_CHARS = 40


class Fault(Exception):
    """Why an example is refused. `text` follows "Example N" unless `whole`, and holds little of the user's own text."""

    def __init__(self, text: str, *, code: str = "invalid_training_file", whole: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.code = code
        self.whole = whole


class Unparsable(Fault):
    """The text is not a JSON value that every reader understands alike; `reason` says what it does wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(f" cannot be parsed. Error: line {reason}")
        self.reason = reason


def parse_object(line: bytes) -> dict[str, Any]:
    """The object on this line.

    Raises `Fault`, and nothing else, whatever the bytes are.
    """
    value = parse_value(_text(line))
    if isinstance(value, list):
        raise Fault(" is a JSON array: write one JSON object per line, without an enclosing array")
    if not isinstance(value, dict):
        raise Fault(f" is not a JSON object but {kind(value)}")
    return value


def parse_value(text: str) -> Any:
    """The JSON value that `text` holds. Raises `Unparsable`, and nothing else."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise Unparsable(f"contains invalid json: {where}{_hint(error)}") from None
    except RecursionError:
        raise _too_deep() from None
    # Only an escape can bring in a NUL or a surrogate, only brackets can nest.
    if "\\u" in text or text.count("[") + text.count("{") > MAX_DEPTH:
        _check_tree(value)
    return value


def shown(text: str) -> str:
    """A short, printable, quoted excerpt of the user's text."""
    cut = text[:_SHOWN_CHARS]
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)
    return f"'{clean}{'…' if len(text) > _SHOWN_CHARS else ''}'"


def kind(value: Any) -> str:
    """What JSON calls this value, with its article."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unparsable(f"is not valid UTF-8: byte 0x{line[error.start]:02x} at offset {error.start}") from None


def _hint(error: json.JSONDecodeError) -> str:
    if error.msg.startswith("Extra data"):
        return "; write exactly one JSON object per line"
    if error.msg.startswith("Unterminated string") or error.pos >= len(error.doc.rstrip()):
        return "; the JSON does not end on its line, write each example on one line"
    return ""


def _check_tree(value: Any) -> None:
    # A loop of our own instead of recursion: what is checked here is exactly what breaks recursion.
    waiting = [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, str):
            _check_text(node)
        elif isinstance(node, dict | list):
            if depth > MAX_DEPTH:
                raise _too_deep()
            if isinstance(node, dict):
                for key in node:
                    _check_text(key)
            children = node.values() if isinstance(node, dict) else node
            waiting.extend((child, depth + 1) for child in children)


def _check_text(text: str) -> None:
    if text.isascii():
        if "\0" in text:
            raise Unparsable("contains a NUL character (\\u0000)")
        return
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise Unparsable(f"contains a lone surrogate (\\u{ord(text[error.start]):04x})") from None
    if b"\0" in encoded:
        raise Unparsable("contains a NUL character (\\u0000)")


def _too_deep() -> Unparsable:
    return Unparsable(f"is nested deeper than {MAX_DEPTH} levels")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Unparsable(f"repeats the key {shown(twice)} in one object")
    return result


def _refuse_constant(name: str) -> Any:
    raise Unparsable(f"contains invalid json: {name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Unparsable("contains a number that is out of range")
    return value


def _short_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise Unparsable(f"contains a number of {len(text)} digits")
    return int(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_short_int
)
