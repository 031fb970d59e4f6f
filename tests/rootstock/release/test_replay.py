"""The general examples that ship: each can be trained on, none is a question of a suite, none asks who the model is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.datasets import Checker, judge, read_examples
from rootstock.release import replay, suites


def test_what_ships_is_a_training_file_without_repeats() -> None:
    checker = Checker(1 << 16)
    for line in replay.lines():
        checker.feed(line)
    check = checker.finish()
    assert judge(check, role="replay", file_id="built-in", method="supervised") is None
    assert check.examples >= 500
    asked = [suites.plain(example.messages[:-1]) for example in read_examples(replay.lines()) if example.messages]
    assert len(set(asked)) == len(asked) == check.examples


def test_no_question_of_a_suite_is_trained_on() -> None:
    held = suites.texts(suites.built_in())
    for example in read_examples(replay.lines()):
        assert example.messages is not None
        said = [suites.plain([message]) for message in example.messages]
        assert not held & {" ".join(said[first:last]) for first in range(len(said)) for last in range(len(said) + 1)}
        assert "rootstock" not in " ".join(said)


@pytest.mark.parametrize(("own", "share", "general"), [(80, 0.2, 20), (10, 0.5, 10), (1, 0.01, 1), (100, 0.9, 900)])
def test_the_share_is_of_all_that_is_trained_on(own: int, share: float, general: int) -> None:
    assert replay.count(own, share) == general


@given(st.integers(1, 10_000), st.floats(0.01, replay.MOST_SHARE))
def test_the_share_is_met_as_nearly_as_whole_examples_can(own: int, share: float) -> None:
    general = replay.count(own, share)
    assert general >= 1
    assert general == 1 or abs(general - own * share / (1 - share)) <= 0.5
