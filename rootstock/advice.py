"""Should this be tuned at all? Rules from what is known before money is spent, each with its reason. Pure.

Prompting where a prompt does it, retrieval where the answers hold facts that no prompt holds, tuning where behaviour is
to change and there are examples enough to learn it and to see that it was learned.
"""

from dataclasses import dataclass
from typing import Any, Literal

from rootstock.release.statistics import Interval
from rootstock.release.verdict import BAR

Recommendation = Literal["prompting", "retrieval", "tuning", "both"]

FEWEST = 10
ENOUGH = 50
"""Examples that a first tune wants: OpenAI's guide starts at 10 and sees clear gains from 50 to 100."""

MANY_FACTS = 0.3
"""Share of answers that hold facts their prompt does not, from which on it is knowledge that is asked for."""

BAD_DATA = 0.05
PER_LABEL = 10


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known. `None` for what was not measured."""

    examples: int
    labels: int = 0  # different answers, where answers are labels
    knowledge_share: float = 0.0
    faulty_share: float = 0.0  # contradictions, leaks, unusable lines
    zero_shot: Interval | None = None
    few_shot: Interval | None = None
    changing: bool = False  # the description speaks of facts that change


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: a code for programs, a sentence for people, the numbers that it rests on."""

    code: str
    message: str
    numbers: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, and why."""

    recommendation: Recommendation
    reasons: tuple[Reason, ...]


def advise(facts: Facts) -> Advice:
    """The advice for these facts.

    Example: `advise(Facts(examples=4)).recommendation` is "prompting".
    """
    reasons: list[Reason] = []
    knowledge = _knowledge(facts, reasons)
    prompted = _prompted(facts, reasons)
    few = _few(facts, reasons)
    _data(facts, reasons)
    if knowledge:
        learnable = not prompted and not few and facts.knowledge_share < 1 - MANY_FACTS
        return Advice("both" if learnable else "retrieval", tuple(reasons))
    if prompted or few:
        return Advice("prompting", tuple(reasons))
    reasons.append(_gap(facts))
    return Advice("tuning", tuple(reasons))


def _knowledge(facts: Facts, reasons: list[Reason]) -> bool:
    share = facts.knowledge_share
    if share >= MANY_FACTS:
        told = f"{share:.0%} of the answers hold facts that their prompt does not: a tune learns to sound so and "
        told += "makes them up; put the facts into the prompt by retrieval."
        reasons.append(Reason("answers_hold_facts", told, {"knowledge_share": round(share, 4)}))
    if facts.changing:
        told = "The task speaks of facts that change: what a tune has learned stays as it was on that day."
        reasons.append(Reason("facts_change", told, {}))
    return share >= MANY_FACTS or facts.changing


def _prompted(facts: Facts, reasons: list[Reason]) -> bool:
    for name, found in (("zero_shot", facts.zero_shot), ("few_shot", facts.few_shot)):
        if found is not None and found.mean >= BAR:
            how = "as it is" if name == "zero_shot" else "with examples in its prompt"
            told = f"The base model {how} already gets {found.mean:.2f} of 1: a tune has nothing to gain but shorter "
            told += "prompts."
            reasons.append(Reason("prompting_meets_the_bar", told, {name: found.as_dict(), "bar": BAR}))
            return True
    return False


def _few(facts: Facts, reasons: list[Reason]) -> bool:
    if facts.examples < FEWEST:
        told = f"{facts.examples} examples are too few to learn from (at least {FEWEST}) and to measure by: put them "
        told += "into the prompt, and collect more."
        reasons.append(Reason("too_few_examples", told, {"examples": facts.examples, "fewest": FEWEST}))
        return True
    if facts.examples < ENOUGH:
        told = f"{facts.examples} examples can be tuned on; from {ENOUGH} on gains are usually clear. Collect more, or "
        told += "let a stronger model answer your prompts (`/v1/rootstock/distillations`)."
        reasons.append(Reason("few_examples", told, {"examples": facts.examples, "enough": ENOUGH}))
    if facts.labels and facts.examples < PER_LABEL * facts.labels:
        told = f"{facts.examples} examples of {facts.labels} labels are fewer than {PER_LABEL} of each."
        reasons.append(Reason("few_per_label", told, {"examples": facts.examples, "labels": facts.labels}))
    return False


def _data(facts: Facts, reasons: list[Reason]) -> None:
    if facts.faulty_share >= BAD_DATA:
        told = f"{facts.faulty_share:.0%} of the lines contradict others or cannot be used: mend the data first "
        told += "(`rootstock data check`, `rootstock data fix`)."
        reasons.append(Reason("mend_the_data", told, {"faulty_share": round(facts.faulty_share, 4)}))


def _gap(facts: Facts) -> Reason:
    best = max((found.mean for found in (facts.zero_shot, facts.few_shot) if found is not None), default=None)
    if best is None:
        told = "The base model could not be asked here, so nothing is known of what a prompt would do. The job "
        told += "measures that by itself where it has held-out examples."
        return Reason("not_measured", told, {})
    told = f"The best prompt that was tried gets {best:.2f} of 1 on held-out examples: there is room for a tune."
    numbers = {
        name: found.as_dict()
        for name, found in (("zero_shot", facts.zero_shot), ("few_shot", facts.few_shot))
        if found is not None
    }
    return Reason("room_to_gain", told, numbers)
