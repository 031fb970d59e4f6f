"""The labels of a classification: whether answers are a closed set of them, and how many examples each has.

Works on rows; knows nothing about lines that resemble one another.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from rootstock.quality.findings import File, Findings, counted
from rootstock.quality.kinds import Kind
from rootstock.quality.traits import Row

LEAST_EXAMPLES = 5
"""Fewer examples of a label than this are too few to learn it."""

_LABELLED = 0.8  # of the lines must answer with a label
_SHOWN = 12
_COMMON = 0.01  # of the lines
_RARE = 0.1  # of what a label would have if all had equally many
_MANY = 0.8  # of all examples in one of several labels
_EDGES = re.compile(r"^[\s\"'`*.,:;!?\[\](){}#-]+|[\s\"'`*.,:;!?\[\](){}#-]+$")


def plain(answer: str) -> str:
    """A label without case, quotes and punctuation around it."""
    return _EDGES.sub("", answer.casefold())


class Labels:
    """The labels of a set, by `plain`, with their counts; empty where answers are no closed set."""

    def __init__(self, rows: Sequence[Row]) -> None:
        answered = [row for row in rows if row.form in ("label", "text", "json")]
        short = [row for row in answered if row.form == "label"]
        counts = Counter(plain(row.answer) for row in short)
        closed = _closed(counts, len(short), len(answered)) and not _copied(short, counts)
        self.counts: Counter[str] = Counter()
        self.spellings: dict[str, Counter[str]] = defaultdict(Counter)
        self._dressed: dict[str, str] = {}
        if closed:
            self.common = frozenset(label for label, n in counts.items() if n >= max(2, _COMMON * len(short)))
            self._dressed = {label: held for label in counts if (held := self.held_in(label)) is not None}
            for row in short:
                label = plain(row.answer)
                self.counts[self._dressed.get(label, label)] += 1
                self.spellings[label][row.answer] += 1

    common: frozenset[str] = frozenset()
    """Labels that are not rare."""

    def held_in(self, text: str) -> str | None:
        """The common label that the text, which is none itself, holds as a word: `Label: billing`."""
        if text in self.common:
            return None
        return next(
            (label for label in sorted(self.common) if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text)), None
        )

    def of(self, row: Row) -> str | None:
        """The row's label, if the set has labels and the row one of them."""
        if row.form != "label" or not self.counts:
            return None
        label = plain(row.answer)
        return self._dressed.get(label, label)


def _closed(counts: Counter[str], short: int, answered: int) -> bool:
    if short < 10 or short < _LABELLED * answered or len(counts) > short / 2:
        return False
    if sum(count for count in counts.values() if count > 1) < _LABELLED * short:
        return False
    numbers = sum(count for label, count in counts.items() if label.replace(".", "").isdigit())
    return numbers < short / 2 or len(counts) <= 10


def _copied(short: Sequence[Row], counts: Counter[str]) -> bool:
    """Answers that stand in their prompts, and are many, are extracts rather than labels."""
    if len(counts) <= 20:
        return False
    return sum(set(row.answer_words) <= set(row.words) for row in short) >= 0.6 * len(short)


def examine(
    findings: Findings, file: File, rows: Sequence[Row], labels: Labels, fields: dict[str, Counter[str]]
) -> None:
    """Find labels that hardly occur, labels that crowd out the others, and too many labels for the examples there are.

    `fields` are the enumerated fields of structured answers, with their values.
    """
    if labels.counts:
        where: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            if (label := labels.of(row)) is not None:
                where[label].append(row.line)
        _weigh(findings, file, "label", where)
    for path in fields:
        where = defaultdict(list)
        for row in rows:
            if row.shape is not None and path in row.shape and row.shape[path][0] == "string":
                where[row.shape[path][1]].append(row.line)
        if len(where) > 1:
            _weigh(findings, file, f"value of '{path}'", where, whole=False)


def _weigh(findings: Findings, file: File, what: str, where: dict[str, list[int]], *, whole: bool = True) -> None:
    total = sum(map(len, where.values()))
    fair = total / len(where)
    if len(where) > 1 and total >= 20:
        most = max(where, key=lambda label: len(where[label]))
        share = len(where[most]) / total
        if share >= max(_MANY, min(0.9, 2.2 / len(where) if len(where) == 2 else 0)):
            message = f"The {what} '{most}' has {share:.0%} of {counted(total, 'example')}."
            cure = "Balance the classes: a model that always answers with the commonest would look good here."
            findings.add(Kind.LABEL_IMBALANCE, file, [], message, cure)
    rare = {label: lines for label, lines in where.items() if len(lines) < _RARE * fair}
    for label, lines in rare.items():
        has = f"The {what} '{label}' has {counted(len(lines), 'example')} of {total:,}"
        message = f"{has}; an equal share would be {fair:.0f}."
        findings.add(
            Kind.LABEL_IMBALANCE, file, lines, message, "Add examples of the rare class, or merge it with another."
        )
    few = {label: lines for label, lines in where.items() if len(lines) < LEAST_EXAMPLES and label not in rare}
    if few and whole and file == "training":
        named = ", ".join(f"'{label}'" for label in list(few)[:_SHOWN]) + (" …" if len(few) > _SHOWN else "")
        message = (
            f"{counted(len(few), 'label')} of {len(where)} have fewer than {LEAST_EXAMPLES} examples each: {named}."
        )
        lines = [line for found in few.values() for line in found]
        cure = f"Collect at least {LEAST_EXAMPLES} examples of each label, better 50, or use fewer labels."
        findings.add(Kind.TOO_FEW_EXAMPLES, file, lines, message, cure)
