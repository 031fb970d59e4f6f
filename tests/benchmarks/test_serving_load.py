"""Intervals of the serving benchmark: what runs differ by belongs into them."""

import random

from benchmarks.serving.load import apart


def test_medians_are_apart_by_what_one_side_adds() -> None:
    source = random.Random(1)
    one = [[source.gauss(5.0, 1.0) for _ in range(100)] for _ in range(7)]
    other = [[value + 2.0 for value in run] for run in one]
    low, middle, high = apart(one, other)
    assert low <= middle <= high and low > 1.9 and high < 2.1


def test_runs_that_differ_make_the_interval_wide_however_many_values_they_have() -> None:
    source = random.Random(1)
    sides = [[[source.gauss(5.0, 2.0)] * 1000 for _ in range(7)] for _ in range(2)]
    low, _, high = apart(*sides)
    assert high - low > 1.0
