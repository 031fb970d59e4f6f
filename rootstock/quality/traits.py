"""What is kept of a line once it was read: digests, words, lengths and what was found in it alone. Knows no other line.

Runs for very many lines, in several processes where that pays: plain values go in and come out.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from rootstock.datasets.parse import Fault, Unparsable, parse_value
from rootstock.quality.pii import kinds_of
from rootstock.quality.refusals import is_refusal
from rootstock.quality.sample import Reader, Sample, kind_of
from rootstock.quality.secrets import found_in
from rootstock.quality.texts import damaged, facts, language, special_token
from rootstock.quality.words import loose, normalised, words
from rootstock.records import DataFormat

MAX_WORDS = 400
"""Words of a prompt that are compared; longer prompts are compared by their beginning and their digest."""

MAX_ANSWER_WORDS = 200
SHOWN_CHARS = 160
MAX_VALUES = 64
LABEL_CHARS = 48
LABEL_WORDS = 5

Shape = dict[str, tuple[str, str]]
"""Path -> (type, value shortened): a JSON answer, its nesting flattened; lists count as their elements, `path[]`."""


class Row(msgspec.Struct, gc=False):
    """A line as the comparisons see it. `form` is `json`, `calls`, `label`, `text`, `item` or `none`."""

    line: int
    fault: tuple[str, str] | None = None
    exact: bytes = b""
    key: bytes = b""  # the same for prompts that ask the same, whatever politeness, case and punctuation
    words: list[str] = []
    system: bytes = b""
    system_text: str = ""
    form: str = "none"
    answer: str = ""  # normalised, shortened
    answer_key: bytes = b""
    answer_words: list[str] = []
    rejected_key: bytes | None = None
    shape: Shape | None = None
    calls: list[tuple[str, Shape | None]] = []
    undeclared: str | None = None
    given_chars: int = 0
    learnt_chars: int = 0
    tokens: int = 0
    given_tokens: int = 0
    pii: list[str] = []
    secret: bool = False
    special: str | None = None
    refusal: bool = False
    damaged: bool = False
    empty: bool = False
    language: str | None = None
    facts: list[str] = []
    question: bool = False


def rows_of(lines: Sequence[tuple[int, bytes | None]], form: DataFormat | None, count_tokens: Any = None) -> list[Row]:
    """The rows of these lines, blank ones left out; `None` stands for a line that is longer than allowed."""
    reader = Reader(form)
    found = []
    for number, line in lines:
        try:
            if line is None:
                raise Unparsable("is longer than a line may be")
            sample = reader.read(line)
        except Fault as fault:
            found.append(Row(number, fault=(str(kind_of(fault)), fault.text.strip(" ,"))))
            continue
        if sample is not None:
            found.append(_row(number, sample, count_tokens))
    return found


def estimated_tokens(text: str) -> int:
    """Tokens that a text comes to, about: four characters of Latin script each, one of others."""
    wide = 0 if text.isascii() else sum(char > "\u2e80" for char in text)
    return (len(text) - wide + 3) // 4 + wide


def _row(number: int, sample: Sample, count_tokens: Any) -> Row:
    prompt = sample.prompt
    listed = loose(prompt)
    everything = "\n".join(sample.texts)
    count = count_tokens or estimated_tokens
    row = Row(
        number,
        exact=_digest(_canonical(sample)),
        key=_digest(" ".join(listed)),
        words=listed[:MAX_WORDS],
        system=_digest("".join("0" if c.isdigit() else c for c in normalised(sample.system))),
        system_text=sample.system[:SHOWN_CHARS],
        given_chars=sample.shown,
        learnt_chars=sample.learnt,
        tokens=count(everything),
        given_tokens=count(prompt) + count(sample.system),
        pii=sorted(kinds_of(everything)),
        secret=found_in(everything),
        special=next(filter(None, map(special_token, sample.texts)), None),
        refusal=sample.refused or (not sample.samples_answers and is_refusal(sample.answer)),
        damaged=any(map(damaged, sample.texts)),
        empty=not sample.samples_answers and not sample.calls and not sample.answer.strip(),
        language=language(prompt) or language(sample.answer),
    )
    _describe_answer(row, sample, prompt)
    return row


def _describe_answer(row: Row, sample: Sample, prompt: str) -> None:
    answer = normalised(sample.answer)
    row.answer = answer[:SHOWN_CHARS]
    if sample.samples_answers:
        row.form, row.answer_key = "item", _digest(answer)
        return
    if sample.calls:
        row.form = "calls"
        row.calls = [(name, flattened(_json(arguments))) for name, arguments in sample.calls]
        row.answer_key = _digest(json.dumps([(name, _json(given)) for name, given in sample.calls], sort_keys=True))
        row.undeclared = _undeclared(sample)
        return
    value = _json(answer) if answer[:1] in ("{", "[") else None
    if value is not None:
        row.form, row.shape = "json", flattened(value)
        row.answer_key = _digest(json.dumps(value, sort_keys=True))
        return
    said = words(sample.answer)
    row.answer_words = said[:MAX_ANSWER_WORDS]
    row.answer_key = _digest(" ".join(said) or answer)
    short = len(answer) <= LABEL_CHARS and len(said) <= LABEL_WORDS and "\n" not in sample.answer.strip()
    row.form = "label" if short and answer else "text" if answer else "none"
    if sample.rejected is not None:
        row.rejected_key = _digest(" ".join(words(sample.rejected)) or normalised(sample.rejected))
    row.facts = facts(answer, f"{sample.system}\n{prompt}")
    row.question = "?" in prompt[-200:]


def flattened(value: Any) -> Shape | None:
    """A JSON value as paths; `None` for what is no object and no array."""
    if not isinstance(value, dict | list):
        return None
    found: Shape = {}
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting and len(found) < MAX_VALUES:
        path, node = waiting.pop()
        if isinstance(node, dict):
            if path:
                found[path] = ("object", "")
            waiting += [(f"{path}.{key}" if path else key, child) for key, child in reversed(node.items())]
        elif isinstance(node, list):
            found[path or "[]"] = ("array", "")
            waiting += [(f"{path}[]", child) for child in node[:8]]
        else:
            found.setdefault(path, _leaf(node))
    return found


def _leaf(value: Any) -> tuple[str, str]:
    if value is None:
        return "null", ""
    if isinstance(value, bool):
        return "boolean", str(value).lower()
    return ("string", value[:80]) if isinstance(value, str) else ("number", str(value))


def _json(text: str) -> Any:
    try:
        return parse_value(text)
    except Unparsable:
        return None


def _undeclared(sample: Sample) -> str | None:
    """A function that is called although the example's tools do not declare it."""
    if not sample.tools:
        return None
    declared = {tool["function"]["name"] for tool in sample.tools}
    return next((name for name, _ in sample.calls if name not in declared), None)


def _canonical(sample: Sample) -> str:
    parts = [sample.system, *(f"{role}\x1f{text}" for role, text in sample.given), sample.answer]
    parts += [f"{name}\x1f{json.dumps(_json(arguments), sort_keys=True)}" for name, arguments in sample.calls]
    parts.append(sample.rejected or "")
    return "\x1e".join(map(normalised, parts))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
