"""The promise: quiet while calls are like the training set, loud soon after a fifth of them are about something else.

A short version; `python -m benchmarks.drift` measures the whole one.
"""

import pytest

from rootstock.drift.detect import Shift, State, advance, threshold
from rootstock.drift.profile import Profile
from rootstock.drift.sample import Sample
from tests.rootstock.drift.traffic import SORTS, drawn

EXAMPLES = 250
QUIET_CALLS = 700


def told(profile: Profile, state: State, calls: list[Sample]) -> list[tuple[int, Shift]]:
    """The shifts found, each with the number of calls that it took."""
    found = []
    for number, call in enumerate(calls, 1):
        found += [(number, shift) for shift in advance(state, profile.events, profile.marks(call), float(number))]
    return found


@pytest.mark.parametrize("sort", list(SORTS))
def test_quiet_on_the_same_and_loud_after_a_fifth_is_new(sort: str):
    profile = Profile.of([[call] for call in drawn(sort, 1, EXAMPLES)])
    state = State.new(profile.events)
    assert told(profile, state, drawn(sort, 2, QUIET_CALLS)) == []
    # Not by luck: the highest score is far from what would be an alarm.
    assert state.scores.max() < threshold(len(profile.events)) / 2
    found = told(profile, state, drawn(sort, 3, 500, new=0.2))
    (calls, shift) = next((calls, shift) for calls, shift in found if shift.kind == "prompt")
    assert calls <= 500
    assert shift.low < shift.rate < shift.high and shift.reference < shift.low
    assert shift.calls <= QUIET_CALLS + calls


@pytest.fixture(scope="module")
def profile() -> Profile:
    return Profile.of([[call] for call in drawn("json", 1, EXAMPLES)])


def mixture(share: float, answer: str, count: int = 500) -> list[Sample]:
    """Usual prompts of which a share is answered with `answer`, evenly spread."""
    every = round(1 / share)
    return [
        Sample.of(call.prompt, call.system, answer if number % every == 0 else call.answer)
        for number, call in enumerate(drawn("json", 7, count))
    ]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("no JSON at all, only words of the usual length...", "schema"),
        ('{"name": "Anna", "total": "four", "currency": "EUR", "paid": false}', "schema"),
        ("I'm sorry, but I can't help with that invoice today", "refusal"),
        ('{"name": "Anna", "total": 411, "currency": "YEN", "paid": false}', "label"),
        ('{"name": "Anna", "total": 411, "currency": "EUR", "paid": false}' + " " * 400, "length"),
    ],
    ids=["no-json", "wrong-type", "refusal", "new-value", "long"],
)
def test_answers_that_are_other_than_trained_are_told_by_kind(profile: Profile, answer: str, kind: str):
    found = told(profile, State.new(profile.events), mixture(0.25, answer))
    assert kind in [shift.kind for _, shift in found]
    assert all(shift.kind != "prompt" for _, shift in found)


def test_an_unknown_system_prompt_is_told(profile: Profile):
    calls = [Sample.of(call.prompt, "You are a pirate.", call.answer) for call in drawn("json", 9, 200)]
    ((_, shift),) = told(profile, State.new(profile.events), calls)
    assert (shift.kind, shift.event) == ("prompt", "unknown system prompt")


def test_a_prompt_without_a_known_answer_says_nothing_of_answers(profile: Profile):
    calls = [Sample.of(call.prompt, call.system, None) for call in drawn("json", 9, 200)]
    marks = profile.marks(calls[0])
    kinds = {event.kind for event, mark in zip(profile.events, marks, strict=True) if mark >= 0}
    assert kinds == {"prompt", "length"}
    assert told(profile, State.new(profile.events), calls) == []
