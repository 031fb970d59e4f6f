"""Which lines to hold out for validation: stratified by answer, nothing nearly the same on both sides, by a seed.

Knows nothing about jobs.
"""

import random
from collections import defaultdict
from collections.abc import Iterable

from rootstock.quality.formats import enumerated
from rootstock.quality.labels import Labels
from rootstock.quality.reporting import Line, read
from rootstock.quality.traits import Row
from rootstock.quality.twins import Twins

_FIELDS = ("label", "category", "class", "intent", "topic", "type", "sentiment")


def held_out(lines: Iterable[Line], *, share: float, seed: int) -> set[int]:
    """The numbers (from 1) of the lines to hold out: about `share` of them, at least one and never all.

    Copies and near copies of a line stay on its side. Each label, or value of a structured answer's first enumerated
    field, is held out by the same share. The same lines, share and seed give the same answer. Faulty lines are not
    chosen. Empty where there are fewer than two groups of lines.
    """
    rows = [row for row in read(lines) if row.fault is None]
    groups = Twins(rows, []).prompts()
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(rows)):
        members[groups.find(i)].append(i)
    if len(members) < 2:
        return set()
    stratum = _strata(rows)
    strata: defaultdict[str, list[list[int]]] = defaultdict(list)
    for first, group in members.items():
        strata[stratum[first]].append(group)
    rng = random.Random(seed)
    chosen: set[int] = set()
    owed = 0.0
    for name in sorted(strata):
        parts = strata[name]
        rng.shuffle(parts)
        owed += share * sum(map(len, parts))
        for number, group in enumerate(parts):
            # What one class could not give, because its groups are large, the next one owes.
            if owed < max(0.5, len(group) / 2) or (number == len(parts) - 1 and len(parts) > 1):
                break
            chosen.update(group)
            owed -= len(group)
    if not chosen:
        smallest: list[int] = min(members.values(), key=len)
        chosen = set(smallest)
    if len(chosen) == len(rows):
        largest: list[int] = max(members.values(), key=len)
        chosen -= set(largest)
    return {rows[i].line for i in chosen}


def _strata(rows: list[Row]) -> list[str]:
    labels = Labels(rows)
    fields = enumerated(rows)
    field = next((path for path in sorted(fields, key=lambda p: (p not in _FIELDS, len(fields[p]), p))), None)
    found = []
    for row in rows:
        label = labels.of(row)
        if label is None and field is not None and row.shape is not None and field in row.shape:
            label = row.shape[field][1]
        found.append(label or (row.calls[0][0] if row.calls else row.form))
    return found
