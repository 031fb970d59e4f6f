"""What a training set is like: events that each call shows or does not, with the rate at which the set shows them.

prompt   unusual words or runs of characters (a call among the most unusual 2, 10, 30 % of the set), each topic that the
         prompts gather around, each of `GROUPS` groups of words, a system prompt that is none of the set's
length   prompts and answers in each range of lengths that the set has
label    each label, where answers are few; each value of a field of JSON that has few; each tool that is called
schema   an answer that is not JSON of the shape that the set's answers share
refusal  an answer that refuses

The largest excess of a rate over the set's is a lower bound of the total variation distance between calls and set.
Knows no live call but the one it is asked about.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jsonschema_rs
import numpy as np
import numpy.typing as npt

from rootstock.drift.bounds import upper
from rootstock.drift.features import Floats, Ids, Rarity, centres, run_ids, word_ids
from rootstock.drift.sample import Sample
from rootstock.quality.refusals import is_refusal
from rootstock.release import metrics

KINDS = ("prompt", "length", "label", "schema", "refusal")

UNSURE = 1e-2
"""How likely it may be that an event is really more frequent than its bound, because the set is only a sample."""

SPARE = {"prompt": 0.0, "length": 0.0, "answer length": 0.05, "label": 0.05, "schema": 0.02, "refusal": 0.02}
"""How much more frequent an event may be anyway. A model does not answer at exactly the rates it was shown."""

TAILS = (0.02, 0.1, 0.3)
LENGTHS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
GROUPS = 1024
GROUP = "word group"
MOST_TOPICS = 12
PER_TOPIC = 40
MOST_SYSTEM_PROMPTS = 16
MOST_FIELDS = 8
MOST_VALUES = 12
LEAST_EXAMPLES = 50
SEED = 20

Marks = npt.NDArray[np.int8]
"""For each event of a profile: 1 the call shows it, 0 it does not, -1 that cannot be said."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a call shows or not. `bound` is the rate that is still as in the set."""

    kind: str
    name: str
    rate: float
    bound: float


@dataclass(frozen=True, slots=True)
class Rules:
    """How a call is looked at, apart from the tables; all of it is JSON."""

    tails: dict[str, list[float]]  # words, runs -> scores beyond which a prompt is unusual, the highest first
    lengths: dict[str, list[float]]  # prompt, answer -> the edges between ranges
    systems: list[str]  # digests of the system prompts, where they are few
    labels: list[str]
    fields: dict[str, list[str]]
    tools: list[str]
    schema: dict[str, Any] | None


class Profile:
    """Example: `Profile.of(samples).marks(sample)`; as bytes by `pack` and `unpack`."""

    def __init__(self, events: Sequence[Event], rules: Rules, words: Rarity, runs: Rarity, topics: Floats) -> None:
        self.events = list(events)
        self.words = words
        self._rules = rules
        self._runs = runs
        self._topics = topics
        self._valid: Callable[[Any], bool] | None = None
        if rules.schema is not None:
            self._valid = jsonschema_rs.validator_for(rules.schema).is_valid

    @classmethod
    def of(cls, conversations: Sequence[Sequence[Sample]]) -> "Profile":
        """Of the calls that each example of a set teaches. Raises `ValueError` for fewer than `LEAST_EXAMPLES`."""
        conversations = [calls for calls in conversations if calls]
        if len(conversations) < LEAST_EXAMPLES:
            raise ValueError(f"a set of {len(conversations)} examples cannot be told from others; {LEAST_EXAMPLES} can")
        calls = [call for conversation in conversations for call in conversation]
        words, word_scores, directions = _scored(conversations, word_ids)
        runs, run_scores, _ = _scored(conversations, run_ids)
        filled = directions[np.linalg.norm(directions, axis=1) > 0]
        topics = centres(filled, min(MOST_TOPICS, len(conversations) // PER_TOPIC), SEED) if len(filled) else filled
        tails = {name: _tails(scores) for name, scores in (("words", word_scores), ("runs", run_scores))}
        rules = _rules(calls, tails)
        blank = cls([], rules, words, runs, topics)
        names = list(blank._names())
        totals, seen = np.zeros(len(names)), np.zeros(len(names))
        for call, *scores in zip(calls, word_scores, run_scores, strict=True):
            marks = blank._values(call, word_ids(call.prompt), scores)
            totals += marks == 1
            seen += marks >= 0
        share = len(conversations) / len(calls)  # the answers of one conversation are not independent
        events = [
            _event(kind, name, hits * share, trials * share)
            for (kind, name), hits, trials in zip(names, totals, seen, strict=True)
        ]
        return cls(events, rules, words, runs, topics)

    def marks(self, call: Sample) -> Marks:
        """Which events a call shows."""
        ids = word_ids(call.prompt)
        scores = [self.words.unusual(ids), self._runs.unusual(run_ids(call.prompt))]
        return self._values(call, ids, scores)

    def pack(self) -> bytes:
        """As bytes: arrays and JSON, nothing that could run."""
        told = json.dumps({"events": [asdict(event) for event in self.events], "rules": asdict(self._rules)})
        out = io.BytesIO()
        np.savez_compressed(
            out,
            told=np.frombuffer(told.encode(), dtype=np.uint8),
            counts=np.array([self.words.texts, self._runs.texts]),
            topics=self._topics,
            words=self.words.within,
            runs=self._runs.within,
        )
        return out.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> "Profile":
        """What `pack` made."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            told = json.loads(found["told"].tobytes())
            texts = [int(count) for count in found["counts"]]
            words, runs = Rarity(texts[0], found["words"]), Rarity(texts[1], found["runs"])
            return cls([Event(**e) for e in told["events"]], Rules(**told["rules"]), words, runs, found["topics"])

    def _names(self) -> Iterable[tuple[str, str]]:
        rules = self._rules
        for table in ("words", "runs"):
            yield from (("prompt", f"unusual {table}, {share:.0%}") for share in TAILS)
        yield from (("prompt", f"topic {number + 1}") for number in range(len(self._topics)))
        if rules.systems:
            yield "prompt", "unknown system prompt"
        for of, edges in rules.lengths.items():
            yield from (("length", f"{of}, {low:.0f} to {high:.0f} characters") for low, high in _ranges(edges))
        for name, values in _labels(rules):
            yield from (("label", f"{name}: {value}") for value in (*values, "(other)"))
        if self._valid is not None:
            yield "schema", "not of the answers' shape"
        if "answer" in rules.lengths:
            yield "refusal", "refuses"
        yield from (("prompt", f"{GROUP} {number}") for number in range(GROUPS))

    def _values(self, call: Sample, ids: Ids, scores: Sequence[float]) -> Marks:
        rules = self._rules
        values = [
            int(score > edge) for score, edges in zip(scores, rules.tails.values(), strict=True) for edge in edges
        ]
        if len(self._topics):
            nearest = int(np.argmax(self._topics @ self.words.direction(ids)))
            values += [int(number == nearest) for number in range(len(self._topics))]
        if rules.systems:
            values.append(int(_digest(call.system) not in rules.systems))
        lengths = {"prompt": len(call.prompt), "answer": None if call.answer is None else len(call.answer)}
        for of, edges in rules.lengths.items():
            size = None if of == "answer" and call.calls else lengths[of]
            values += [-1 if size is None else int(low <= size < high) for low, high in _ranges(edges)]
        answer = None if call.answer is None or call.calls or call.cut else call.answer
        value = None if answer is None or self._valid is None else metrics.parse(answer)
        for name, known in _labels(rules):
            values += _one_of(known, _said(name, call, value))
        if self._valid is not None:
            shaped = isinstance(value, dict | list) and self._valid(value)
            values.append(-1 if answer is None else int(not shaped))
        if "answer" in rules.lengths:
            values.append(-1 if call.answer is None else int(is_refusal(call.answer)))
        groups = np.zeros(GROUPS, dtype=np.int8)
        groups[ids % GROUPS] = 1
        return np.concatenate([np.array(values, dtype=np.int8), groups])


def _event(kind: str, name: str, hits: float, trials: float) -> Event:
    spare = SPARE["answer length" if name.startswith("answer,") else kind]
    rate = hits / trials if trials else 0.0
    return Event(kind, name, rate, min(1.0, upper(hits, trials, UNSURE) + spare))


def _scored(
    conversations: Sequence[Sequence[Sample]], ids_of: Callable[[str], Ids]
) -> tuple[Rarity, list[float], Floats]:
    """The table of a set, the score of each call as if its conversation were not in it, and each call's direction."""
    found = [[ids_of(call.prompt) for call in calls] for calls in conversations]
    whole = [np.unique(np.concatenate(ids)) for ids in found]
    rarity = Rarity.of(whole)
    scores = [rarity.unusual(ids, own) for calls, own in zip(found, whole, strict=True) for ids in calls]
    return rarity, scores, np.array([rarity.direction(ids) for calls in found for ids in calls])


def _tails(scores: Sequence[float]) -> list[float]:
    ranked = sorted(scores, reverse=True)
    return [ranked[min(len(ranked) - 1, max(1, round(share * len(ranked))))] for share in TAILS]


def _rules(calls: Sequence[Sample], tails: dict[str, list[float]]) -> Rules:
    systems = Counter(call.system for call in calls)
    answers = [call.answer for call in calls if call.answer is not None and not call.calls and not call.cut]
    lengths = {"prompt": _edges([len(call.prompt) for call in calls])}
    if answers:
        lengths["answer"] = _edges([len(answer) for answer in answers])
    metric = metrics.pick(answers) if answers else None
    fields: dict[str, list[str]] = {}
    if metric is not None and metric.schema is not None:
        fields = _fields([metrics.parse(answer) for answer in answers])
    return Rules(
        tails=tails,
        lengths=lengths,
        systems=[_digest(system) for system in systems] if len(systems) <= MOST_SYSTEM_PROMPTS else [],
        labels=list(metric.labels) if metric is not None else [],
        fields=fields,
        tools=sorted({name for call in calls for name in call.calls})[:MOST_VALUES],
        schema=metric.schema if metric is not None else None,
    )


def _fields(values: Sequence[Any]) -> dict[str, list[str]]:
    """The fields of JSON objects that take few values, and these."""
    objects = [value for value in values if isinstance(value, dict)]
    found: dict[str, list[str]] = {}
    for name in sorted({name for value in objects for name in value}):
        counts = Counter(_scalar(value.get(name)) for value in objects)
        if 2 <= len(counts) <= MOST_VALUES and len(objects) >= metrics.PER_LABEL * len(counts):
            found[name] = sorted(counts)
    return dict(list(found.items())[:MOST_FIELDS])


def _labels(rules: Rules) -> Iterable[tuple[str, list[str]]]:
    if rules.labels:
        yield "answer", rules.labels
    yield from ((f"field {name}", values) for name, values in rules.fields.items())
    if rules.tools:
        yield "tool", rules.tools


def _said(name: str, call: Sample, value: Any) -> str | None:
    """Which label a call shows under this name; `None` where that cannot be said."""
    if name == "tool":
        return call.calls[0] if call.calls else None
    if call.calls or call.answer is None or call.cut:
        return None
    if name == "answer":
        return metrics.normal(call.answer)
    return _scalar(value.get(name.removeprefix("field "))) if isinstance(value, dict) else None


def _one_of(known: Sequence[str], said: str | None) -> list[int]:
    if said is None:
        return [-1] * (len(known) + 1)
    return [*(int(said == label) for label in known), int(said not in known)]


def _scalar(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text[: metrics.LABEL_CHARS]


def _edges(sizes: Sequence[int]) -> list[float]:
    found = [*np.quantile(sizes, LENGTHS, method="higher"), min(sizes), max(sizes) + 1]  # and beyond all of the set
    return [float(edge) for edge in np.unique(found)]


def _ranges(edges: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip((0.0, *edges), (*edges, float("inf")), strict=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
