"""Contradictions: prompts that ask the same and answers that do not agree, also inside structured answers.

Two prompts that differ in a word which carries the answer are no contradiction. Whether a word does is learnt from the
set itself: one that goes with the answer it stands beside more often than chance does.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rootstock.quality.differences import difference
from rootstock.quality.findings import Findings, counted
from rootstock.quality.kinds import Kind
from rootstock.quality.labels import Labels
from rootstock.quality.near import Groups
from rootstock.quality.traits import Row, Shape
from rootstock.quality.twins import Twin, Twins
from rootstock.quality.words import NEGATIONS, insubstantial, numeric, words

_SHOWN = 5
_MOST_CHANGES = 0.25  # of the words; two prompts that differ in more do not ask the same
_SEEN = 3  # lines with a word before they say what it goes with
_TELLING = 1.5  # times as often as by chance
_TELLING_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where two answers differ: a field that is one of few values (`""`: the label), or the answer as such."""

    path: str | None
    a: str = ""
    b: str = ""
    others: "tuple[Disagreement, ...]" = ()  # further fields that differ


class Answers:
    """Compares answers of one set."""

    def __init__(self, labels: Labels, fields: dict[str, Counter[str]]) -> None:
        self._labels = labels
        self._fields = fields

    def differ(self, a: Row, b: Row) -> Disagreement | None:
        """Where the two answers say different things; `None` where they say the same."""
        if a.rejected_key is not None or b.rejected_key is not None:
            # Several pairs for one prompt are usual; what one prefers and the other rejects is not.
            crossed = a.answer_key == b.rejected_key and b.answer_key == a.rejected_key
            return Disagreement(None) if crossed and a.answer_key != b.answer_key else None
        if a.answer_key == b.answer_key or a.refusal or b.refusal:
            return None
        label_a, label_b = self._labels.of(a), self._labels.of(b)
        if label_a is not None and label_b is not None:
            return Disagreement("", label_a, label_b) if label_a != label_b else None
        if a.form != b.form and {a.form, b.form} != {"label", "text"}:
            return None
        if a.form == "json":
            return self._values(a.shape or {}, b.shape or {})
        if a.form == "calls":
            return self._called(a, b)
        if a.form in ("label", "text"):
            return Disagreement(None) if difference(a.answer_words, b.answer_words).substantial else None
        return Disagreement(None) if a.form == "item" else None

    def _called(self, a: Row, b: Row) -> Disagreement | None:
        if [name for name, _ in a.calls] != [name for name, _ in b.calls]:
            return Disagreement(None)
        for (_, first), (_, second) in zip(a.calls, b.calls, strict=True):
            if found := self._values(first or {}, second or {}):
                return Disagreement(None, found.a, found.b)
        return None

    def _values(self, a: Shape, b: Shape) -> Disagreement | None:
        loose: Disagreement | None = None
        fields: list[Disagreement] = []
        for path in a:
            if path not in b:
                continue
            (sort_a, x), (sort_b, y) = a[path], b[path]
            if x == y or "null" in (sort_a, sort_b) or x.casefold().strip(" .") == y.casefold().strip(" ."):
                continue
            if path in self._fields and x in self._fields[path] and y in self._fields[path]:
                fields.append(Disagreement(path, x, y))
                continue
            gap = difference(words(x), words(y))
            if gap.numbers or gap.negation or (gap.changes and (gap.words <= 6 or gap.substantial)):
                loose = Disagreement(None, x, y)
        return replace(fields[0], others=tuple(fields[1:])) if fields else loose


def examine(findings: Findings, twins: Twins, answers: Answers) -> list[Twin]:
    """Find contradictions in the training file. The pairs that agree come back: they are near duplicates."""
    rows = twins.rows
    agreeing: list[Twin] = []
    groups = Groups()
    labelled: list[tuple[Twin, Disagreement]] = []
    for twin in (*twins.same, *twins.alike):
        if twins.held(twin.a) or twins.held(twin.b):
            continue
        found = answers.differ(rows[twin.a], rows[twin.b])
        if found is None:
            agreeing.append(twin)
        elif twin.gap is None:
            groups.join(twin.a, twin.b)
        elif found.path is not None and _comparable(twin):
            labelled.append((twin, found))
        elif _same_question(twin):
            groups.join(twin.a, twin.b)
    # One wrong label disagrees with every line of its kind: it is named with the line most like it, and they are not.
    settled = {i for group in groups.all() for i in group}
    told = _Telling(twins, answers, labelled)
    for twin, found in sorted(labelled, key=lambda pair: pair[0].gap.changes if pair[0].gap else 0):
        if settled.isdisjoint((twin.a, twin.b)) and not told.carry(twin, found):
            groups.join(twin.a, twin.b)
            settled |= {twin.a, twin.b}
    _report(findings, rows, groups)
    for row in rows[: sum(not twins.held(i) for i in range(len(rows)))]:
        if row.rejected_key is not None and row.rejected_key == row.answer_key:
            message = f"Line {row.line} prefers the same answer that it rejects."
            cure = "Make the preferred and the other output differ, or take the example out."
            findings.add(Kind.CONTRADICTION, "training", [row.line], message, cure)
    return agreeing


def _comparable(twin: Twin) -> bool:
    gap = twin.gap
    assert gap is not None
    return not gap.negation and (gap.wording or gap.changes <= max(1, _MOST_CHANGES * gap.words)) and gap.words >= 5


def _same_question(twin: Twin) -> bool:
    gap = twin.gap
    assert gap is not None
    return not gap.numbers and not gap.negation and not gap.swapped and len(gap.added) <= (gap.words >= 8)


def _report(findings: Findings, rows: Sequence[Row], groups: Groups) -> None:
    for group in groups.all():
        lines = [rows[i].line for i in group]
        shown = ", ".join(map(str, lines[:_SHOWN])) + (" …" if len(lines) > _SHOWN else "")
        message = f"Lines {shown} ask the same ({counted(len(lines), 'example')}) and are answered differently."
        cure = (
            "Decide which answer is right and give it to all of them, or say in the prompt what makes the difference."
        )
        findings.add(Kind.CONTRADICTION, "training", lines, message, cure)


class _Telling:
    """Which words go with which labels, of the words that pairs differ in."""

    def __init__(self, twins: Twins, answers: Answers, labelled: Sequence[tuple[Twin, Disagreement]]) -> None:
        wanted: set[str] = set()
        paths: dict[str | None, None] = {}  # in order
        for twin, found in labelled:
            assert twin.gap is not None
            wanted |= twin.gap.left | twin.gap.right
            paths |= {each.path: None for each in (found, *found.others)}
        self._counts: dict[str | None, dict[str, Counter[str]]] = {path: defaultdict(Counter) for path in paths}
        self._totals: dict[str | None, Counter[str]] = {path: Counter() for path in paths}
        for row in twins.rows if labelled else ():
            held = wanted.intersection(row.words)
            for path, value in _labels(row, answers, paths):
                self._totals[path][value] += 1
                for word in held:
                    self._counts[path][word][value] += 1

    def carry(self, twin: Twin, found: Disagreement) -> bool:
        """Whether a word in which the prompts differ may be why the answers do, in any of their fields."""
        assert twin.gap is not None
        swapped = {word for pair in twin.gap.swapped for word in pair}
        for each in (found, *found.others):
            for side, value in ((twin.gap.left, each.a), (twin.gap.right, each.b)):
                if any(self._tells(each.path, word, value, word in swapped) for word in side):
                    return True
        return False

    def _tells(self, path: str | None, word: str, value: str, swapped: bool) -> bool:
        if word in NEGATIONS:
            return True
        counts = self._counts[path].get(word, Counter())
        seen = counts.total() - 1  # without the line itself
        if numeric(word) and (seen < _SEEN or len(word) >= 3):
            return len(word) < 3
        if seen < _SEEN:
            return swapped and not insubstantial(word)
        share = (counts[value] - 1) / seen
        chance = self._totals[path][value] / max(1, self._totals[path].total())
        return share >= _TELLING_SHARE and share >= _TELLING * chance


def _labels(row: Row, answers: Answers, wanted: Iterable[str | None]) -> Iterable[tuple[str | None, str]]:
    label = answers._labels.of(row)
    if label is not None and "" in set(wanted):
        yield "", label
    for path in wanted:
        if path and row.shape is not None and path in row.shape:
            yield path, row.shape[path][1]
