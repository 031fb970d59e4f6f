"""Judging a run by its metrics."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.recipe import Facts, Recipe, resolve
from trainer.watch import LOSS, REWARD, Metrics, Score, best_step, overfits, reason_to_end, runs_away

RECIPE = resolve({}, Facts(10, 64, 128, "float32", 16), seed=1)


def history(*validated: float, train: list[float] | None = None, key: str = LOSS.key) -> list[Metrics]:
    """A step for each value, with a full validation at each."""
    losses = train or [1.0] * len(validated)
    return [
        {"step": n, "train_loss": loss, key: v} for n, (v, loss) in enumerate(zip(validated, losses, strict=True), 1)
    ]


def end(steps: list[Metrics], recipe: Recipe, score: Score = LOSS, tokens: int = 0, seconds: float = 0) -> str | None:
    return reason_to_end(steps, recipe, score, tokens=tokens, seconds=seconds)


def test_the_best_step_is_the_first_that_none_beats() -> None:
    assert best_step(history(3, 1, 2, 1), LOSS) == 2
    assert best_step(history(3, 1, 2, 1, key=REWARD.key), REWARD) == 1
    assert best_step(history(3.0, 2.95, 2.0), LOSS, min_delta=0.1) == 3
    assert best_step([{"step": 1, "train_loss": 2.0}], LOSS) is None


@given(st.lists(st.floats(0, 10), min_size=1))
def test_the_best_step_has_the_least_loss(values: list[float]) -> None:
    assert values[(best_step(history(*values), LOSS) or 0) - 1] == min(values)


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "ends"),
    [
        ((3, 2, 1), 1, 0.0, False),
        ((3, 2, 2), 1, 0.0, True),
        ((3, 2, 2), 2, 0.0, False),
        ((3, 2, 2.5, 2), 2, 0.0, True),
        ((3, 2, 2.5, 1), 2, 0.0, False),
        ((3.0, 2.9, 2.85), 1, 0.2, True),
        ((3.0, 2.9, 2.7), 2, 0.2, False),
    ],
)
def test_it_ends_when_the_patience_is_over(values: Any, patience: int, min_delta: float, ends: bool) -> None:
    reason = end(history(*values), replace(RECIPE, patience=patience, min_delta=min_delta))
    assert (reason is not None) is ends
    if reason:
        assert "validation loss did not improve" in reason


def test_it_is_judged_only_where_it_was_measured() -> None:
    steps = [*history(1, 2), {"step": 3, "train_loss": 1.0}]
    assert end(steps, replace(RECIPE, patience=1)) is None
    assert end(steps[:2], replace(RECIPE, patience=1)) is not None
    assert end(steps[:2], RECIPE) is None


def test_a_budget_ends_it_with_the_reason() -> None:
    assert end(history(1), replace(RECIPE, budget_tokens=100), tokens=99) is None
    assert end(history(1), replace(RECIPE, budget_tokens=100), tokens=120) == (
        "the budget of 100 tokens is used (120 trained)"
    )
    assert end(history(1), replace(RECIPE, budget_minutes=2), seconds=119) is None
    assert end(history(1), replace(RECIPE, budget_minutes=2), seconds=120) == "the budget of 2 minutes is used"


def test_learning_by_heart_is_told_from_learning() -> None:
    assert overfits(history(1, 2, 3, train=[3, 2, 1]))
    assert not overfits(history(1, 2, 3, train=[1, 2, 3]))  # worse everywhere: no learning by heart
    assert not overfits(history(3, 1, 2, train=[3, 2, 1]))
    assert not overfits(history(2, 3, train=[3, 2]))
    assert not overfits([*history(1, 2, 3, train=[3, 2, 1]), {"step": 4, "train_loss": 0.5}])


def test_a_loss_far_above_its_start_is_told_from_a_hard_batch() -> None:
    def bad(*losses: float) -> bool:
        return runs_away(history(*[1.0] * len(losses), train=list(losses)))

    assert bad(2.0, *[9.0] * 10)
    assert not bad(2.0, *[9.0] * 9)
    assert not bad(2.0, *[9.0] * 9, 2.0, *[9.0] * 9)
    assert not bad(*[9.0] * 30)  # as bad as it started
    assert not bad(0.1, *[4.0] * 30)  # an easy first example, and hard ones
