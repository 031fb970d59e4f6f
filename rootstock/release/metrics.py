"""How an answer is scored against the right one: picked from what the right ones look like. Knows no model.

json_fields      every right answer is a JSON object: 0 for an answer that is none, or not of the shape that they share,
                 else the share of fields that are right
label_accuracy   few different short answers: 1 for the right one
exact_match      short answers of many kinds: 1 for the right one
text_similarity  all others: how much of the text stays when one is turned into the other (rapidfuzz's ratio)

All are between 0 and 1. Labels also have a macro-F1, which rare classes count in as much as frequent ones.
"""

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from rootstock.grading.similarity import fuzzy_match

Score = Callable[[str, str], float]

MOST_LABELS = 50
LABEL_CHARS = 64
SHORT_CHARS = 48
MOSTLY = 0.95
"""Answers are JSON where this share of the right ones is; the others are for the data report."""

PER_LABEL = 3
"""So many examples a label needs on average before answers are taken to be labels."""

_SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_EDGES = re.compile(r"^[\s\"'`*]+|[\s\"'`*.,:;!]+$")
"""No minus sign and no point in front: those make another number."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to score. `labels` are those that there are, where answers are labels; `schema` what JSON must keep."""

    name: str
    score: Score
    labels: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None

    def valid(self, answer: str) -> bool | None:
        """Whether an answer is of the shape that the right ones share; `None` where answers are no JSON."""
        return self.score.valid(answer) if isinstance(self.score, _FieldScore) else None


def pick(references: Sequence[str]) -> Metric:
    """The metric that suits these right answers; give those of the training set, where labels are all seen.

    Raises `ValueError` for none.
    """
    if not references:
        raise ValueError("there is no answer to pick a metric from")
    parsed = [value for value in map(parse, references) if isinstance(value, dict | list) and value]
    if len(parsed) >= MOSTLY * len(references):
        schema = infer(parsed)
        return Metric("json_fields", _FieldScore(schema), schema=schema)
    counts = Counter(normal(text) for text in references)
    short = max(len(label) for label in counts) <= LABEL_CHARS
    if short and 2 <= len(counts) <= MOST_LABELS and len(references) >= PER_LABEL * len(counts):
        return Metric("label_accuracy", same, labels=tuple(sorted(counts)))
    if statistics.median(len(text) for text in references) <= SHORT_CHARS:
        return Metric("exact_match", same)
    return Metric("text_similarity", similar)


def normal(text: str) -> str:
    """An answer as labels are compared: without case, and without quotes, marks and spaces around it."""
    return _EDGES.sub("", " ".join(text.split())).casefold()


def same(answer: str, reference: str) -> float:
    """1 for the right answer, whatever its case and the marks around it; of empty ones only the empty one is right."""
    return float(normal(answer) == normal(reference))


def similar(answer: str, reference: str) -> float:
    """How much of the text stays when one is turned into the other."""
    return fuzzy_match(answer.strip(), reference.strip())


def infer(values: Sequence[Any]) -> dict[str, Any]:
    """A JSON schema that these values keep: types, fields that all have, and no field that none has.

    Example: `infer([{"a": 1}, {"a": 2, "b": None}])` requires an integer `a` and allows `b` to be null.
    """
    objects = [value for value in values if isinstance(value, dict)]
    arrays = [value for value in values if isinstance(value, list)]
    kinds = {_SCALARS[type(value)] for value in values if type(value) in _SCALARS}
    if "number" in kinds:
        kinds.discard("integer")
    schema: dict[str, Any] = {}
    if objects:
        kinds.add("object")
        names = sorted({name for value in objects for name in value})
        schema["properties"] = {name: infer([value[name] for value in objects if name in value]) for name in names}
        schema["required"] = [name for name in names if all(name in value for value in objects)]
        schema["additionalProperties"] = False
    if arrays:
        kinds.add("array")
        inner = [item for value in arrays for item in value]
        if inner:
            schema["items"] = infer(inner)
    return {"type": sorted(kinds)} | schema


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """The mean F1 of the labels that are among the references (scikit-learn's `f1_score(..., average="macro")`, where
    what is no label counts as wrong only)."""
    got, wanted = [normal(text) for text in answers], [normal(text) for text in references]
    hits = Counter(label for label, answer in zip(wanted, got, strict=True) if label == answer)
    said, meant = Counter(got), Counter(wanted)
    return statistics.fmean(2 * hits[label] / (said[label] + meant[label]) for label in meant) if meant else 0.0


class _FieldScore:
    """0 for what is not of the schema, else the share of leaves that are equal."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._valid = jsonschema_rs.validator_for(schema).is_valid

    def valid(self, answer: str) -> bool:
        """Whether the answer is JSON of the shape that the right ones share."""
        value = parse(answer)
        return isinstance(value, dict | list) and bool(self._valid(value))

    def __call__(self, answer: str, reference: str) -> float:
        if not self.valid(answer):
            return 0.0
        value = parse(answer)
        ours, theirs = leaves(value), leaves(parse(reference))
        places = ours.keys() | theirs.keys()
        missing = object()
        return sum(ours.get(place, missing) == theirs.get(place) for place in places) / max(1, len(places))


def leaves(value: Any, at: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], tuple[str, Any]]:
    """Every place of a JSON value that holds no other, with its type: `True` is not 1 there."""
    if isinstance(value, dict) and value:
        return {place: leaf for name, inner in value.items() for place, leaf in leaves(inner, (*at, name)).items()}
    if isinstance(value, list) and value:
        return {
            place: leaf for number, inner in enumerate(value) for place, leaf in leaves(inner, (*at, number)).items()
        }
    kind = "number" if type(value) in (int, float) else type(value).__name__
    return {at: (kind, value)}


def parse(text: str) -> Any:
    """The text as JSON, `None` where it is none; with a fence of Markdown around it it is none, as for a caller."""
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
