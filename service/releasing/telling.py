"""Numbers and sentences of the answers to a release's questions: scores by role, the verdict, the events. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from rootstock.policies import ReleasePolicy
from rootstock.release import metrics
from rootstock.release import suites as asking
from rootstock.release.statistics import bootstrap, paired_macro_f1
from rootstock.release.verdict import (
    CONSTANT,
    FEW_SHOT,
    FEWEST,
    FLOOR,
    START,
    ZERO_SHOT,
    Suite,
    Verdict,
    decide,
    too_few,
    unmeasured,
)
from rootstock.releases import Answer
from service.releasing import marking
from service.releasing.reading import Plan

TUNED = "tuned"
BASELINES = (ZERO_SHOT, FEW_SHOT, START)

Answers = Mapping[str, Mapping[int, Answer]]


def suite_role(suite: asking.Suite, when: str) -> str:
    """The role of a suite's questions, `before` or `after` the tune.

    A suite that was replaced in between by one of its name has another role: answers to other questions are no pairs.
    """
    return f"suite/{asking.digest(suite)[:16]}/{when}"


def may_know(begun: Mapping[int, Answer]) -> bool:
    """Whether, by the first questions of a suite, it may be one that there is something to forget of."""
    told = [one.score or 0.0 for one in begun.values() if one.text is not None]
    return not told or sum(told) >= FLOOR / 2 * len(told)


def knew(answers: Answers, suite: asking.Suite) -> bool:
    """Whether the base was asked the suite and can do it, so that there is something to forget."""
    told = [one.score or 0.0 for one in answers.get(suite_role(suite, "before"), {}).values() if one.text is not None]
    return bool(told) and sum(told) >= FLOOR * len(told)


def suites(answers: Answers, asked: Sequence[asking.Suite]) -> list[Suite]:
    """The scores of the suites, of those questions that could be asked both times; none of what was never asked."""
    found = []
    for suite in asked:
        before, after = (answers.get(suite_role(suite, when), {}) for when in ("before", "after"))
        numbers = [n for n, one in before.items() if one.text is not None]
        if after:
            numbers = [n for n in numbers if n in after and after[n].text is not None]
        if numbers:
            scores = [[kept[n].score or 0.0 for n in numbers] for kept in ((before, after) if after else (before,))]
            found.append(Suite(suite.name, scores[0], scores[1] if after else None))
    return found


def baseline_message(plan: Plan, answers: Answers, shots: int, seed: int) -> str:
    """What the base gets, in one line of the job's log."""
    told = []
    for role, how in ((ZERO_SHOT, "as it is"), (FEW_SHOT, f"with {shots} examples in its prompt")):
        scores = _scores(answers, role, range(len(plan.questions)))
        if scores:
            mean = bootstrap(scores, seed=seed)
            told.append(f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f}) {how}")
    always = _constant(plan, answers, range(len(plan.questions)))
    if always:
        told.append(f"{sum(always) / len(always):.3f} would be had by always giving the same answer")
    return f"Baseline: {plan.metric_name} of the base model on {len(plan.questions)} held-out examples: " + ", ".join(
        told
    )


def verdict(
    plan: Plan,
    answers: Answers,
    asked: Sequence[asking.Suite],
    models: Mapping[str, str],
    *,
    policy: ReleasePolicy,
    seed: int,
) -> Verdict:
    """The verdict with all numbers. `models` names who answered in each role."""
    roles = [role for role in (*BASELINES, TUNED) if answers.get(role)]
    numbers = [n for n in range(len(plan.questions)) if all(_told(answers, role, n) for role in roles)]
    ungraded = sum(one.text is not None and one.score is None for role in roles for one in answers[role].values())
    if ungraded and len(numbers) < FEWEST:
        return unmeasured(
            "grader_failed",
            f"The grader failed on {ungraded} answers, and {len(numbers)} examples are left of the {FEWEST} that are "
            "needed. The job's events tell how; try the grader with `/v1/fine_tuning/alpha/graders/run`.",
        )
    if not numbers or TUNED not in roles:
        return too_few(0)
    references = [plan.questions[n].reference for n in numbers]
    baselines = {role: _scores(answers, role, numbers) for role in roles if role != TUNED}
    always = _constant(plan, answers, numbers)
    if len(always) == len(numbers):
        baselines[CONSTANT] = always
    tuned = _scores(answers, TUNED, numbers)
    steps = {role: _scores(answers, role, numbers) for role in answers if role.startswith("checkpoint-")}
    complete = {role: scores for role, scores in steps.items() if len(scores) == len(numbers)}
    found = decide(
        tuned,
        baselines,
        suites(answers, asked),
        forgetting_limit=policy.forgetting_limit,
        suite_limits=policy.suite_limits,
        seed=seed,
        bar=marking.bar(plan.bar, plan.grader),
        checkpoints=complete,
    )
    if not found.numbers:
        return found
    best, gain = found.numbers["compared_with"], found.numbers["gain"]
    means = found.numbers["scores"]
    summary = (
        f"{plan.metric_name} {means[TUNED]['mean']:.3f} against {means[best]['mean']:.3f} of {best}, "
        f"{gain['mean']:+.3f} with an interval from {gain['low']:+.3f} to {gain['high']:+.3f}"
    )
    more: dict[str, Any] = {"metric": plan.metric_name, "models": dict(models), "summary": summary, "seed": seed}
    more["lines"] = [plan.questions[n].line for n in numbers]
    if plan.metric.labels:
        more["macro_f1"] = _macro_f1(answers, roles, numbers, references, best, seed)
    if plan.metric.schema is not None:
        more["valid"] = {role: _valid(plan, answers, role, numbers) for role in roles}
    return Verdict(found.verdict, found.reasons, found.numbers | more)


def _macro_f1(
    answers: Answers, roles: Sequence[str], numbers: Sequence[int], references: Sequence[str], best: str, seed: int
) -> dict[str, Any]:
    texts = {role: [answers[role][n].text or "" for n in numbers] for role in roles}
    means = {role: round(metrics.macro_f1(said, references), 4) for role, said in texts.items()}
    labels = {label: place for place, label in enumerate(dict.fromkeys(map(metrics.normal, references)))}
    compared = best if best in texts else ZERO_SHOT
    if compared not in texts:
        return {"scores": means}
    texts["right"] = list(references)
    before, after, right = (
        [labels.get(metrics.normal(text), -1) for text in texts[who]] for who in (compared, TUNED, "right")
    )
    gain = paired_macro_f1(before, after, right, seed=seed)
    return {"scores": means, "compared_with": compared, "gain": gain.as_dict()}


def _valid(plan: Plan, answers: Answers, role: str, numbers: Sequence[int]) -> float:
    return round(sum(bool(plan.metric.valid(answers[role][n].text or "")) for n in numbers) / len(numbers), 4)


def _told(answers: Answers, role: str, number: int) -> bool:
    found = answers[role].get(number)
    return found is not None and found.score is not None


def _constant(plan: Plan, answers: Answers, numbers: Sequence[int]) -> list[float]:
    """What the one answer that fits most gets, given to each question; of a grader what it said."""
    if plan.constant is None:
        return []
    if plan.grader is not None:
        return _scores(answers, CONSTANT, numbers)
    return [plan.metric.score(plan.constant, plan.questions[n].reference) for n in numbers]


def _scores(answers: Answers, role: str, numbers: Sequence[int]) -> list[float]:
    kept = answers.get(role, {})
    return [score for n in numbers if n in kept and (score := kept[n].score) is not None]
