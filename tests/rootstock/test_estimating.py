"""Estimates as arithmetic: what is known is exact, what is learned comes near, and what is not known is said."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.estimating import Past, Plan, estimate
from rootstock.estimating.model import bytes_per_token, speed


def plan(**more: object) -> Plan:
    return Plan(**({"method": "supervised", "type": "lora", "file_bytes": 40_000, "examples": 320} | more))  # type: ignore[arg-type]


def ended(seed: int, count: int = 20, noise: float = 0.1) -> list[Past]:
    """Jobs that took 4 s, 20 ms a step and 100 us a token, give or take."""
    source, past = random.Random(seed), []
    for _ in range(count):
        tokens, steps = source.randint(2_000, 400_000), source.randint(10, 2000)
        seconds = (4 + 0.02 * steps + 1e-4 * tokens) * source.uniform(1 - noise, 1 + noise)
        file_bytes = round(tokens * 4 * source.uniform(0.95, 1.05))
        past.append(Past(file_bytes, steps, 1.0, steps, tokens, seconds, 2 * 1024**3))
    return past


def test_steps_are_exact() -> None:
    assert estimate(plan(), []).steps == 3 * math.ceil(320 / 2)  # 3 epochs, batches of 2 by rule
    assert estimate(plan(n_epochs=5, batch_size=16), []).steps == 5 * 20
    assert estimate(plan(examples=10, batch_size=64, n_epochs=2), []).steps == 2


def test_a_deployment_without_history_says_what_it_does_not_know() -> None:
    told = estimate(plan(), [])
    assert (told.seconds, told.cost, told.based_on, told.jobs) == (None, None, "nothing", 0)
    assert told.trained_tokens.low < told.trained_tokens.mean < told.trained_tokens.high
    assert any("ROOTSTOCK_TRAINER_PEAK_FLOPS" in note for note in told.notes)


def test_a_roofline_counts_operations() -> None:
    told = estimate(plan(weights=10**9, peak_flops=1e14, price_per_hour=3.6), [])
    assert told.based_on == "roofline" and told.seconds is not None and told.cost is not None
    assert told.seconds.mean == pytest.approx(told.trained_tokens.mean * 4e9 / 1e14 / 0.3)
    assert told.seconds.low < told.seconds.mean < told.seconds.high
    assert told.cost.mean == pytest.approx(told.seconds.mean / 1000)
    whole = estimate(plan(weights=10**9, peak_flops=1e14, type="full"), [])
    assert whole.seconds is not None and whole.seconds.mean == pytest.approx(1.5 * told.seconds.mean)


@pytest.mark.parametrize("seed", range(5))
def test_ended_jobs_teach_the_next(seed: int) -> None:
    past, told = ended(seed), []
    for new in ended(seed + 100, 40):
        made = estimate(plan(file_bytes=new.file_bytes, n_epochs=1, examples=new.steps, batch_size=1), past)
        assert made.seconds is not None and made.based_on == "history" and made.jobs == 20
        told.append((made.seconds, made.trained_tokens, new))
    near = sum(abs(seconds.mean / new.seconds - 1) < 0.25 for seconds, _, new in told)
    within = sum(seconds.low <= new.seconds <= seconds.high for seconds, _, new in told)
    tokens = sum(tokens.low <= new.tokens <= tokens.high for _, tokens, new in told)
    assert near >= 36 and within >= 32 and tokens >= 32  # the bars are learned from 20 jobs only


def test_tokens_of_long_examples_take_longer() -> None:
    def took(examples: int, length: int) -> Past:
        tokens = examples * length
        return Past(tokens * 4, examples, 1.0, examples, tokens, 1 + 1e-4 * tokens + 4e-7 * tokens * length)

    past = [took(examples, length) for examples, length in ((100, 50), (300, 200), (80, 900), (500, 100), (60, 400))]
    for examples, length in ((200, 1500), (900, 60)):
        new = took(examples, length)
        made = estimate(plan(file_bytes=new.file_bytes, examples=examples, n_epochs=1, batch_size=1), past)
        assert made.seconds is not None and made.seconds.mean == pytest.approx(new.seconds, rel=0.02)


def test_a_wild_past_has_wide_bars() -> None:
    calm, wild = (speed(ended(1, noise=noise)) for noise in (0.02, 0.8))
    assert calm is not None and wild is not None and wild.spread > 1.5 * calm.spread


def test_two_jobs_are_no_history_of_time_but_of_tokens() -> None:
    past = ended(3, count=2)
    assert speed(past) is None
    rate = bytes_per_token(past)
    assert rate is not None and 3.5 < rate.mean < 4.5


def test_a_budget_bounds_what_it_names() -> None:
    past = ended(1)
    told = estimate(plan(file_bytes=400_000, budget_tokens=1_000, budget_seconds=2.0), past)
    assert told.trained_tokens.high <= 1_000 and told.seconds is not None and told.seconds.high <= 2.0
    assert told.steps < estimate(plan(file_bytes=400_000), past).steps


def test_tuning_breaks_even_against_examples_in_the_prompt() -> None:
    told = estimate(plan(n_epochs=3), ended(1))
    each = told.trained_tokens.mean / 3 / 320
    assert told.saved_tokens_per_call == round(5 * each)
    assert told.break_even_calls == math.ceil(4 * told.trained_tokens.mean / (2 * told.saved_tokens_per_call))


JOBS = st.lists(
    st.builds(
        Past,
        st.integers(1, 10**9),
        st.integers(0, 10**6),
        st.floats(0.01, 50),
        st.integers(1, 10**6),
        st.integers(0, 10**9),
        st.floats(0, 10**6),
        st.none() | st.integers(1, 10**12),
    ),
    max_size=8,
)


@given(JOBS, st.integers(0, 10**10), st.integers(0, 10**6))
def test_no_past_makes_it_fail_or_lose_order(past: list[Past], size: int, examples: int) -> None:
    told = estimate(plan(file_bytes=size, examples=examples, price_per_hour=2.0, memory_gib=0.5), past)
    for bars in (told.trained_tokens, told.seconds, told.cost, told.peak_memory_gib):
        assert bars is None or 0 <= bars.low <= bars.mean * 1.0001 <= bars.high * 1.0002
    assert told.steps >= 1
