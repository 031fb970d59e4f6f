"""The detector alone, on events without texts: what it promises, what it forgets, what re-arming does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootstock.drift import detect
from rootstock.drift.bounds import lower, upper
from rootstock.drift.detect import State, advance, rearm
from rootstock.drift.profile import Event

EVENTS = [Event("prompt", "a", 0.02, 0.05), Event("prompt", "b", 0.3, 0.36), Event("schema", "c", 0.0, 0.03)]


def run(state: State, rates: tuple[float, ...], calls: int, seed: int = 1) -> list[tuple[int, str]]:
    draw = np.random.default_rng(seed)
    found = []
    for number in range(1, calls + 1):
        marks = (draw.random(len(rates)) < np.array(rates)).astype(np.int8)
        found += [(number, shift.kind) for shift in advance(state, EVENTS, marks, float(number))]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_calls_at_the_very_bounds_give_no_alarm(seed: int):
    assert run(State.new(EVENTS), (0.05, 0.36, 0.03), 10_000, seed) == []


def test_each_kind_gives_one_alarm_until_it_is_armed_again():
    state = State.new(EVENTS)
    run(state, (0.02, 0.3, 0.0), 500)
    assert [kind for _, kind in run(state, (0.25, 0.3, 0.3), 4000)] == ["schema", "prompt"]
    rearm(state, EVENTS, accept=False)
    assert sorted(kind for _, kind in run(state, (0.25, 0.3, 0.3), 4000, seed=2)) == ["prompt", "schema"]


def test_traffic_that_is_accepted_is_the_reference_from_then_on():
    state = State.new(EVENTS)
    with pytest.raises(ValueError, match="200 are needed"):
        rearm(state, EVENTS, accept=True)
    run(state, (0.25, 0.3, 0.0), 600)
    rearm(state, EVENTS, accept=True)
    assert run(state, (0.25, 0.3, 0.0), 4000, seed=2) == []
    assert [kind for _, kind in run(state, (0.25, 0.3, 0.2), 500, seed=3)] == ["schema"]


def test_the_interval_and_the_beginning_are_those_of_the_shift():
    state = State.new(EVENTS)
    run(state, (0.02, 0.3, 0.0), 1000)
    draw = np.random.default_rng(4)
    for number in range(1001, 1400):
        marks = np.array([draw.random() < 0.3, draw.random() < 0.3, 0], dtype=np.int8)
        if found := advance(state, EVENTS, marks, float(number)):
            break
    (shift,) = found
    assert 900 < shift.began_at <= number and shift.calls <= number - 900
    assert shift.low < 0.3 < shift.high and shift.reference == 0.02 and 0 in shift.related


def test_what_cannot_be_said_changes_nothing():
    state = State.new(EVENTS)
    advance(state, EVENTS, np.array([1, 1, 1], dtype=np.int8), 1.0)
    before = state.scores.copy()
    advance(state, EVENTS, np.array([-1, -1, -1], dtype=np.int8), 2.0)
    assert np.array_equal(state.scores, before) and state.trials.tolist() == [1.0, 1.0, 1.0] and state.calls == 2


@settings(max_examples=15)
@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=3), max_size=40))
def test_a_state_that_was_stored_in_between_goes_on_as_if_it_was_not(calls: list[list[int]]):
    one, other = State.new(EVENTS), State.new(EVENTS)
    for number, call in enumerate(calls):
        marks = np.array(call, dtype=np.int8)
        first, second = (advance(state, EVENTS, marks, float(number)) for state in (one, other))
        assert first == second
        other = State.unpack(other.pack())
    assert other.points == one.points and np.array_equal(one.scores, other.scores)


def test_the_plot_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(detect, "WINDOW", 2)
    monkeypatch.setattr(detect, "MOST_POINTS", 3)
    state = State.new(EVENTS)
    run(state, (1.0, 0.3, 0.0), 20)
    assert [point["calls"] for point in state.points] == [16, 18, 20]
    assert state.points[-1]["prompt"] == pytest.approx(0.98)


@settings(max_examples=60)
@given(st.integers(1, 5000), st.floats(0, 1))
def test_bounds_hold_what_was_seen(trials: int, share: float):
    hits = round(trials * share)
    low, high = lower(hits, trials, 0.01), upper(hits, trials, 0.01)
    assert 0.0 <= low <= hits / trials <= high <= 1.0
    assert upper(hits, trials, 0.001) >= high
    assert upper(2 * hits, 2 * trials, 0.01) <= high + 1e-9
