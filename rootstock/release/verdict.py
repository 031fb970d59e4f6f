"""The verdict on a tune: `ship`, `hold` with reasons, or `unmeasured` with what to do about it. Pure; asks nobody.

What was measured comes in as scores of the same questions in the same order; nothing else decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rootstock.release.statistics import Interval, bootstrap, paired_bootstrap

FEWEST = 10
"""Held-out examples below which nothing is said about a tune."""

BAR = 0.95
"""A prompt that reaches this, of 1, needs no tune."""

FLOOR = 0.5
"""A suite in which the untuned model gets less than this, of 1, has nothing to forget."""

ZERO_SHOT, FEW_SHOT, CONSTANT, START = "zero_shot", "few_shot", "constant", "start_model"

_SAID = {
    ZERO_SHOT: "the base model as it is",
    FEW_SHOT: "the base model with examples in its prompt",
    CONSTANT: "always the same answer, whatever is asked",
    START: "the model that it was tuned from",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: a code for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Suite:
    """The scores of a general suite, question by question; `after` is `None` where it was not asked again."""

    name: str
    before: Sequence[float]
    after: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, why, and the numbers that it was decided by."""

    verdict: Literal["ship", "hold", "unmeasured"]
    reasons: tuple[Reason, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)


def unmeasured(code: str, message: str) -> Verdict:
    """Nothing can be said, and why."""
    return Verdict("unmeasured", (Reason(code, message),))


def too_few(count: int) -> Verdict:
    """So few held-out examples that nothing can be said."""
    found = f"There {'is' if count == 1 else 'are'} {count or 'no'} held-out example{'' if count == 1 else 's'}"
    return unmeasured(
        "too_few_examples",
        f"{found}, and {FEWEST} are needed to tell a gain from chance (50 for a narrow interval): "
        "send a `validation_file`, or let `rootstock.split` set some of the training file aside.",
    )


def served_differs(fault: str) -> Verdict:
    """What is served is not what was trained."""
    return Verdict("hold", (Reason("served_differs", f"The served model is not the trained one: {fault}."),))


def decide(
    tuned: Sequence[float],
    baselines: Mapping[str, Sequence[float]],
    suites: Sequence[Suite] = (),
    *,
    forgetting_limit: float,
    seed: int,
    suite_limits: Mapping[str, float] | None = None,
    bar: float | None = BAR,
    checkpoints: Mapping[str, Sequence[float]] | None = None,
) -> Verdict:
    """Judge a tune by its scores and those of each baseline on the same questions.

    It ships when it clearly beats the best baseline (the interval of the difference is above 0), prompting does not
    meet the `bar` already (where there is one), and no suite surely lost more than its limit in `suite_limits`, else
    `forgetting_limit` (the whole interval is beyond it; the intervals of all suites hold together). Raises `ValueError`
    for no baseline, and for scores that make no pairs.
    """
    if not baselines:
        raise ValueError("a tune is compared with something: there is no baseline")
    if len(tuned) < FEWEST:
        return too_few(len(tuned))
    best = max(baselines, key=lambda name: (sum(baselines[name]), name))
    gain = paired_bootstrap(baselines[best], tuned, seed=seed)
    asked_again = sum(suite.after is not None for suite in suites)
    limits = suite_limits or {}
    forgotten = [_forgotten(one, limits.get(one.name, forgetting_limit), seed, asked_again) for one in suites]
    reasons = [*_gain_reasons(best, gain, baselines, bar), *(reason for _, reason in forgotten if reason is not None)]
    scores = {**baselines, **(checkpoints or {}), "tuned": tuned}
    numbers = {
        "examples": len(tuned),
        "scores": {name: bootstrap(values, seed=seed).as_dict() for name, values in scores.items()},
        "compared_with": best,
        "gain": gain.as_dict(),
        "bar": bar,
        "forgetting_limit": forgetting_limit,
        "suites": [shown for shown, _ in forgotten],
    }
    return Verdict("hold" if reasons else "ship", tuple(reasons), numbers)


def _gain_reasons(
    best: str, gain: Interval, baselines: Mapping[str, Sequence[float]], bar: float | None
) -> list[Reason]:
    reasons = []
    means = {name: sum(values) / len(values) for name, values in baselines.items() if name in (ZERO_SHOT, FEW_SHOT)}
    prompted = max(means, key=lambda name: means[name], default=None)
    if prompted is not None and bar is not None and means[prompted] >= bar:
        reasons.append(
            Reason(
                "prompting_meets_the_bar",
                f"Prompting already meets the bar: {_SAID[prompted]} scores {means[prompted]:.3f}, "
                f"and {bar:g} is enough. Use the prompt.",
            )
        )
    if gain.low <= 0:
        than = _SAID.get(best, best)
        cure = (
            "The answers do not follow from the questions: look for shuffled or contradicting ones in the data report."
            if best == CONSTANT
            else "Add examples, mend those that the data report names, or stay with the prompt."
        )
        reasons.append(
            Reason(
                "no_clear_gain",
                f"No clear gain over {than}: {gain.mean:+.3f}, and chance alone explains anything between "
                f"{gain.low:+.3f} and {gain.high:+.3f}. {cure}",
            )
        )
    return reasons


def _forgotten(suite: Suite, limit: float, seed: int, among: int) -> tuple[dict[str, Any], Reason | None]:
    before = bootstrap(suite.before, seed=seed)
    shown: dict[str, Any] = {"name": suite.name, "questions": len(suite.before), "limit": limit}
    shown["before"] = before.as_dict()
    if suite.after is None:
        return shown | {"after": None, "change": None, "forgotten": False}, None
    change = paired_bootstrap(suite.before, suite.after, seed=seed, among=among)
    # What chance explains is no loss, and one suite of several has bad luck more often than one alone.
    over = change.high < -limit
    shown |= {"after": bootstrap(suite.after, seed=seed).as_dict(), "change": change.as_dict(), "forgotten": over}
    if not over:
        return shown, None
    return shown, Reason(
        "forgetting",
        f"It forgot: in the suite '{suite.name}' it lost {-change.mean:.3f} of 1, surely more than {-change.high:.3f}, "
        f"and {limit:g} is allowed. Mix general examples in (`rootstock.replay`), train fewer epochs, or use a "
        "lower rank.",
    )
