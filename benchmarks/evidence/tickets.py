"""Support tickets by the hundred: clean, with shuffled answers, and with the faults that collected data has.

The wordings are those of the example (`examples.data`), which the base never saw. Knows no model.
"""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from examples.data import build
from examples.data.build import Ticket

Line = dict[str, Any]

LABELS = "What is it about? Choose delivery, defect, billing or account."
FAULTS = ("another ticket's answer", "a wrong field", "a missing field", "prose around the JSON", "cut off")


def draw(count: int, seed: str, unseen: float = 0.0, known: Sequence[Ticket] = ()) -> list[Ticket]:
    """So many tickets, none of which has the text of another or of the `known` ones."""
    dice, seen, kept = Random(seed), {one.text for one in known}, []
    while len(kept) < count:
        for one in build.tickets(dice, count - len(kept), unseen):
            if one.text not in seen:
                seen.add(one.text)
                kept.append(one)
    return kept


def lines(tickets: Sequence[Ticket]) -> list[Line]:
    """As a training file has them."""
    return [one.row() for one in tickets]


def shuffled(given: Sequence[Line], seed: str) -> list[Line]:
    """The same questions and the same answers, put together at random."""
    answers = [line["messages"][-1] for line in given]
    Random(seed).shuffle(answers)
    return [{"messages": [*line["messages"][:-1], answer]} for line, answer in zip(given, answers, strict=True)]


def labelled(tickets: Sequence[Ticket], wrong: float, seed: str) -> list[Line]:
    """What a ticket is about, in a word; `wrong` is the share of tickets that are given another's label."""
    labels = sorted({one.category for one in tickets})
    dice = Random(seed)
    faulty = set(dice.sample(range(len(tickets)), round(wrong * len(tickets))))
    found = []
    for n, one in enumerate(tickets):
        label = dice.choice([other for other in labels if other != one.category]) if n in faulty else one.category
        asked = [{"role": "system", "content": LABELS}, {"role": "user", "content": one.text}]
        found.append({"messages": [*asked, {"role": "assistant", "content": label}]})
    return found


def noisy(given: Sequence[Line], share: float, seed: str) -> list[Line]:
    """With one of `FAULTS` in `share` of the answers, each kind as often."""
    dice = Random(seed)
    faulty = set(dice.sample(range(len(given)), round(share * len(given))))
    return [_spoilt(line, given, dice) if n in faulty else line for n, line in enumerate(given)]


def _spoilt(line: Line, others: Sequence[Line], dice: Random) -> Line:
    right = line["messages"][-1]["content"]
    fault = dice.choice(FAULTS)
    value: dict[str, Any] = json.loads(right)
    if fault == FAULTS[0]:
        text = dice.choice(others)["messages"][-1]["content"]
    elif fault == FAULTS[1]:
        name = dice.choice(("category", "priority", "needs_refund"))
        other = json.loads(dice.choice(others)["messages"][-1]["content"])
        text = _compact(value | {name: other[name]})
    elif fault == FAULTS[2]:
        value.pop(dice.choice(list(value)))
        text = _compact(value)
    elif fault == FAULTS[3]:
        text = f"Sure, here it is: {right}"
    else:
        text = right[: dice.randrange(10, len(right) - 5)]
    return {"messages": [*line["messages"][:-1], {"role": "assistant", "content": text}]}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
