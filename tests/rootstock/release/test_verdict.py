"""The gate: chance is told from gain, forgetting from noise; shuffled answers do not ship, real gains do."""

import json
import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.release import baseline, metrics
from rootstock.release.statistics import bootstrap, paired_bootstrap, paired_macro_f1
from rootstock.release.verdict import CONSTANT, FEW_SHOT, ZERO_SHOT, Suite, Verdict, decide, served_differs

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=40)
KINDS = ["delivery", "defect", "billing", "account"]


def codes(verdict: Verdict) -> list[str]:
    return [reason.code for reason in verdict.reasons]


def judge(tuned: Sequence[float], base: Sequence[float], suites: Sequence[Suite] = (), limit: float = 0.05) -> Verdict:
    return decide(tuned, {ZERO_SHOT: base}, suites, forgetting_limit=limit, seed=1)


@given(SCORES, st.integers(0, 2**32))
def test_an_interval_holds_its_mean_and_stays_within_what_was_seen(scores: list[float], seed: int):
    found = bootstrap(scores, seed=seed, rounds=400)
    assert found.mean == pytest.approx(statistics.fmean(scores))
    assert min(scores) - 1e-9 <= found.low <= found.high <= max(scores) + 1e-9
    assert found == bootstrap(scores, seed=seed, rounds=400)


@given(SCORES, st.randoms(use_true_random=False))
def test_a_difference_the_other_way_round_is_its_negative(scores: list[float], chance: random.Random):
    others = chance.sample(scores, len(scores))
    there = paired_bootstrap(scores, others, seed=3, rounds=400)
    back = paired_bootstrap(others, scores, seed=3, rounds=400)
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@pytest.mark.parametrize("n", [10, 30, 100])
def test_the_interval_misses_the_truth_as_seldom_as_it_says(n: int):
    generator = np.random.default_rng(7)
    misses = 0
    for seed in range(200):
        before, after = generator.random(n) < 0.5, generator.random(n) < 0.7
        found = paired_bootstrap(before.astype(float), after.astype(float), seed=seed, rounds=500)
        misses += not found.low <= 0.2 <= found.high
    # 5 % are promised; so many more of 200 would be a miss of 5 standard deviations.
    assert misses / 200 <= 0.05 + 5 * (0.05 * 0.95 / 200) ** 0.5


def test_macro_f1_is_computed_anew_of_every_draw():
    wanted = [0] * 20 + [1] * 5
    before, after = [0] * 25, [0] * 20 + [1] * 4 + [-1]
    found = paired_macro_f1(before, after, wanted, seed=1)
    alone = [metrics.macro_f1(list(map(str, answers)), list(map(str, wanted))) for answers in (before, after)]
    assert found.mean == pytest.approx(alone[1] - alone[0])
    assert 0 < found.low < found.mean < found.high
    assert paired_macro_f1(wanted, wanted, wanted, seed=1).high == 0.0


def ticket(chance: random.Random, *, text: bool) -> str:
    kind = chance.choice(KINDS)
    return kind if text else json.dumps({"kind": kind, "refund": kind == "billing", "urgent": chance.random() < 0.3})


def tune(seed: int, right: float, *, text: bool) -> Verdict:
    """A tune that answers so many questions rightly, and the others as somebody who knows only what answers look like;
    its base gets the form seldom and a prompted base a bit of it."""
    chance = random.Random(seed)
    training = [ticket(chance, text=text) for _ in range(200)]
    wanted = [ticket(chance, text=text) for _ in range(50)]
    metric = metrics.pick(training)
    always = baseline.constant(metric, training)

    def answers(share: float, otherwise: Sequence[str]) -> list[float]:
        said = [one if chance.random() < share else chance.choice(otherwise) for one in wanted]
        return [metric.score(answer, one) for answer, one in zip(said, wanted, strict=True)]

    baselines = {
        ZERO_SHOT: answers(0.02, ["I think so.", "{}"]),
        FEW_SHOT: answers(0.1, [*training[:5], "?"]),
        CONSTANT: [metric.score(always, one) for one in wanted],
    }
    return decide(answers(right, training), baselines, forgetting_limit=0.05, seed=seed)


@pytest.mark.parametrize("text", [True, False])
def test_shuffled_answers_are_refused_and_learned_ones_ship_in_19_of_20(text: bool):
    shuffled = [tune(seed, 0.0, text=text) for seed in range(20)]
    assert sum(verdict.verdict == "hold" for verdict in shuffled) >= 19
    assert all("no_clear_gain" in codes(verdict) for verdict in shuffled if verdict.verdict == "hold")
    learned = [tune(seed, 0.85, text=text) for seed in range(20)]
    assert sum(verdict.verdict == "ship" for verdict in learned) >= 19, [codes(verdict) for verdict in learned]


def test_a_tune_like_its_base_is_no_gain_and_the_numbers_are_told():
    base = [float(n % 2) for n in range(40)]
    verdict = judge(base[1:] + base[:1], base)
    assert (verdict.verdict, codes(verdict)) == ("hold", ["no_clear_gain"])
    assert verdict.numbers["gain"]["mean"] == 0.0 and verdict.numbers["compared_with"] == ZERO_SHOT
    assert verdict.numbers["scores"]["tuned"]["mean"] == 0.5 and verdict.numbers["examples"] == 40


def test_a_prompt_that_is_good_enough_needs_no_tune():
    verdict = decide([1.0] * 100, {FEW_SHOT: [1.0] * 96 + [0.0] * 4}, forgetting_limit=0.05, seed=1)
    assert codes(verdict) == ["prompting_meets_the_bar", "no_clear_gain"] or codes(verdict) == [
        "prompting_meets_the_bar"
    ]
    assert decide([1.0] * 100, {FEW_SHOT: [0.9] * 100}, forgetting_limit=0.05, seed=1, bar=0.99).verdict == "ship"


def test_too_few_examples_are_said_to_be_too_few():
    verdict = judge([1.0] * 9, [0.0] * 9)
    assert (verdict.verdict, codes(verdict)) == ("unmeasured", ["too_few_examples"])
    assert "rootstock.split" in verdict.reasons[0].message and "There are 9" in verdict.reasons[0].message
    assert judge([1.0] * 10, [0.0] * 10).verdict == "ship"


def test_forgetting_holds_a_gain_when_it_is_sure_and_beyond_the_limit():
    gain = ([1.0] * 20, [0.0] * 20)
    suite = [1.0] * 30
    lost = judge(*gain, [Suite("arithmetic", suite, [0.0] * 12 + [1.0] * 18)])
    assert (lost.verdict, codes(lost)) == ("hold", ["forgetting"])
    assert "arithmetic" in lost.reasons[0].message and lost.numbers["suites"][0]["forgotten"]
    few = judge(*gain, [Suite("arithmetic", suite, [0.0] * 4 + [1.0] * 26)])
    assert few.verdict == "ship", "four of thirty are a loss, but it may be a small one"
    allowed = judge(*gain, [Suite("arithmetic", suite, [0.0] * 12 + [1.0] * 18)], limit=0.5)
    assert allowed.verdict == "ship"
    unasked = judge(*gain, [Suite("facts", [0.0] * 30, None)])
    assert unasked.verdict == "ship" and unasked.numbers["suites"][0]["after"] is None


def test_a_suite_with_a_limit_of_its_own_is_held_to_that():
    lost = [Suite(name, [1.0] * 30, [0.0] * 12 + [1.0] * 18) for name in ("formats", "reading")]
    limits = {"formats": 0.5, "of no suite": 0.0}
    found = decide([1.0] * 20, {ZERO_SHOT: [0.0] * 20}, lost, forgetting_limit=0.05, suite_limits=limits, seed=1)
    assert [(one["limit"], one["forgotten"]) for one in found.numbers["suites"]] == [(0.5, False), (0.05, True)]
    assert codes(found) == ["forgetting"] and "'reading'" in found.reasons[0].message
    stricter = decide(
        [1.0] * 20, {ZERO_SHOT: [0.0] * 20}, lost, forgetting_limit=0.9, suite_limits={"formats": 0.05}, seed=1
    )
    assert [one["forgotten"] for one in stricter.numbers["suites"]] == [True, False]


def test_what_one_suite_shows_is_less_sure_among_many():
    gain = ([1.0] * 20, [0.0] * 20)
    lost = Suite("arithmetic", [1.0] * 30, [0.0] * 6 + [1.0] * 24)
    kept = [Suite(f"kept {n}", [1.0] * 30, [1.0] * 30) for n in range(20)]
    assert judge(*gain, [lost]).verdict == "hold"
    assert judge(*gain, [lost, *kept]).verdict == "ship"
    unasked = [Suite(f"unasked {n}", [0.0] * 30, None) for n in range(20)]
    assert judge(*gain, [lost, *unasked]).verdict == "hold", "who was not asked had no chance of bad luck"


def test_noise_in_six_small_suites_seldom_holds_anything():
    chance = random.Random(5)
    held = 0
    for _ in range(100):
        suites = []
        for number in range(6):
            before, after = ([float(chance.random() < 0.7) for _ in range(15)] for _ in range(2))
            suites.append(Suite(f"small {number}", before, after))
        held += judge([1.0] * 20, [0.0] * 20, suites, limit=0).verdict == "hold"
    assert held <= 100 * 0.025 + 5 * (100 * 0.025 * 0.975) ** 0.5


def test_what_is_served_otherwise_is_held_and_nothing_is_compared_with_nothing():
    assert served_differs("another tokenizer").verdict == "hold"
    with pytest.raises(ValueError, match="no baseline"):
        decide([1.0] * 20, {}, forgetting_limit=0.05, seed=1)
    with pytest.raises(ValueError, match="make no pairs"):
        judge([1.0] * 20, [0.0] * 19)
