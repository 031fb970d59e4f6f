"""Lines that repeat or resemble one another: duplicates, leaks into the validation file, contradictions.

Exact ones by digest, near ones by MinHash and then word by word. Works on rows of all lines at once.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rootstock.quality.differences import Difference, difference
from rootstock.quality.findings import Findings, counted
from rootstock.quality.kinds import Kind
from rootstock.quality.near import Groups, pairs, signatures
from rootstock.quality.traits import Row
from rootstock.quality.words import bag

MAX_COMPARED = 500_000
"""Lines that are compared word by word; of a larger set only what repeats exactly is found."""

_LEAST_WORDS = 4
_ALIKE = 0.45
_FAMILY = 3  # lines that differ by one exchanged word: more than that, and it is a template that is filled in
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Twin:
    """Two rows whose prompts are the same or nearly so; `gap` is `None` where only courtesies differ."""

    a: int
    b: int
    gap: Difference | None


class Twins:
    """Everything that pairs of rows show. `rows` are the training rows, `held` those of the validation file."""

    def __init__(self, rows: Sequence[Row], held: Sequence[Row]) -> None:
        self.rows = [*rows, *held]
        self._split = len(rows)
        self.copies: dict[int, list[int]] = defaultdict(list)  # first training row -> exact repetitions
        self.leaked: dict[int, int] = {}  # validation row -> training row, exactly the same
        self._first: list[int] = []
        first: dict[bytes, int] = {}
        for i, row in enumerate(self.rows):
            known = first.setdefault(row.exact, i)
            if known == i:
                self._first.append(i)
            elif i >= self._split and known < self._split:
                self.leaked[i] = known
            elif i < self._split:
                self.copies[known].append(i)
        self.frequency = Counter(word for i in self._first for word in set(self.rows[i].words))
        self.same, self.alike = self._same(), self._alike()

    def held(self, i: int) -> bool:
        """Whether the row is one of the validation file's."""
        return i >= self._split

    def _same(self) -> list[Twin]:
        """Pairs that ask the same but for courtesies, case and punctuation."""
        groups: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
        for i in self._first:
            if self.rows[i].words:
                groups[self.rows[i].system, self.rows[i].key].append(i)
        self._leaders = [group[0] for group in groups.values()]
        self._groups = {group[0]: group for group in groups.values()}
        return [
            Twin(a, b, None)
            for group in groups.values()
            for at, a in enumerate(group[: 2 * _SHOWN])
            for b in group[at + 1 : at + 1 + 4 * _SHOWN]
        ]

    def _alike(self) -> list[Twin]:
        """Pairs that ask nearly the same."""
        chosen = [i for i in self._leaders if len(self.rows[i].words) >= _LEAST_WORDS][:MAX_COMPARED]
        signed = signatures([bag(self.rows[i].words) for i in chosen])
        found = []
        for x, y in pairs(signed, _ALIKE):
            a, b = chosen[x], chosen[y]
            if self.rows[a].system == self.rows[b].system:
                gap = difference(self.rows[a].words, self.rows[b].words, lambda word: self.frequency[word] <= 2)
                found += [Twin(i, j, gap) for i in self._groups[a][:2] for j in self._groups[b][:2]]
        return self._without_templates(found)

    def _without_templates(self, twins: list[Twin]) -> list[Twin]:
        """Mark as no wording what is one of many fillings of the same template."""
        family = Counter(i for t in twins if t.gap and t.gap.swapped and t.gap.paraphrase for i in (t.a, t.b))
        more = Counter(i for t in twins if t.gap and t.gap.wording and t.gap.added for i in (t.a, t.b))
        self._crowded = {i for i, n in family.items() if n > _FAMILY} | {i for i, n in more.items() if n > 2 * _FAMILY}
        return twins

    def resemble(self, twin: Twin) -> bool:
        """Whether the prompts of the two are nearly the same."""
        if twin.gap is None or (twin.gap.wording and not twin.gap.added):
            return True
        if twin.a in self._crowded or twin.b in self._crowded:
            return False
        # Two words that are both at home in the set say different things; a synonym comes from outside.
        slots = any(min(self.frequency[x], self.frequency[y]) > 2 for x, y in twin.gap.swapped)
        return twin.gap.wording or (twin.gap.paraphrase and not slots)

    def prompts(self) -> Groups:
        """Rows that must not be separated: exact copies and near prompts."""
        groups = Groups()
        for first, others in self.copies.items():
            for other in others:
                groups.join(first, other)
        for twin in (*self.same, *self.alike):
            if self.resemble(twin):
                groups.join(twin.a, twin.b)
        return groups


def duplicates(findings: Findings, twins: Twins, same_answer: "Sequence[Twin]") -> None:
    """Find exact repetitions, and lines that are nearly the same in prompt and answer (`same_answer`), as clusters."""
    lines = [row.line for row in twins.rows]
    for first, others in twins.copies.items():
        cluster = [lines[first], *(lines[i] for i in others)]
        message = f"{_named(cluster)} are the same example."
        findings.add(Kind.EXACT_DUPLICATE, "training", cluster, message, "Keep one of them: `rootstock data fix` does.")
    groups = Groups()
    for twin in same_answer:
        if not twins.held(twin.a) and not twins.held(twin.b) and twins.resemble(twin):
            groups.join(twin.a, twin.b)
    for group in groups.all():
        cluster = [lines[i] for i in group]
        message = f"{_named(cluster)} are nearly the same example."
        findings.add(Kind.NEAR_DUPLICATE, "training", cluster, message, "Keep one of them, or make them differ more.")


def leaks(findings: Findings, twins: Twins) -> None:
    """Find validation lines that stand in the training file as well, or nearly so."""
    lines = [row.line for row in twins.rows]
    cure = "Take them out of one of the files: the validation would measure memory. `rootstock data fix` does."
    for i, source in twins.leaked.items():
        message = f"Line {lines[i]} of the validation file is line {lines[source]} of the training file."
        findings.add(Kind.SPLIT_LEAK, "validation", [lines[i]], message, cure)
    for i, source in near_leaks(twins).items():
        message = f"Line {lines[i]} of the validation file is nearly line {lines[source]} of the training file."
        findings.add(Kind.SPLIT_LEAK, "validation", [lines[i]], message, cure)


def near_leaks(twins: Twins) -> dict[int, int]:
    """Validation row -> training row with nearly the same prompt, exact repetitions left out."""
    found: dict[int, int] = {}
    for twin in (*twins.same, *twins.alike):
        a, b = sorted((twin.a, twin.b))
        if not twins.held(a) and twins.held(b) and b not in twins.leaked and twins.resemble(twin):
            found.setdefault(b, a)
    return found


def _named(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_SHOWN]))
    return f"Lines {shown}" + (f" and {counted(len(lines) - _SHOWN, 'more line')}" if len(lines) > _SHOWN else "")
