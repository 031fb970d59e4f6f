"""Every rule that turns "auto" into a number, and every value that is refused."""

from typing import Any

import pytest

from rootstock.errors import JobFailure
from trainer.recipe import Facts, Recipe, resolve


def recipe(
    examples: int = 100, hidden_size: int = 2048, max_rank: int = 16, method: str = "supervised", **asked: Any
) -> Recipe:
    return resolve(asked, Facts(examples, hidden_size, 512, "float32", max_rank), seed=1, method=method)


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [(1, 25), (4, 25), (10, 10), (33, 3), (34, 3), (100, 3), (8333, 3), (8334, 2), (20_000, 1), (90_000, 1)],
)
def test_epochs_follow_the_published_rule(examples: int, epochs: int) -> None:
    assert recipe(examples).n_epochs == epochs


@pytest.mark.parametrize(
    ("examples", "size"), [(1, 1), (10, 1), (100, 1), (320, 2), (500, 4), (1000, 8), (2000, 16), (10**6, 16)]
)
def test_batches_grow_slowly_with_the_data(examples: int, size: int) -> None:
    assert recipe(examples).batch_size == size


def test_a_batch_is_never_larger_than_the_data() -> None:
    assert recipe(3, batch_size=16).batch_size == 3


@pytest.mark.parametrize(("hidden", "rate"), [(128, 2e-3), (256, 1.6e-3), (1024, 4e-4), (2048, 2e-4), (8192, 2e-4)])
def test_narrow_bases_learn_faster(hidden: int, rate: float) -> None:
    assert recipe(hidden_size=hidden).learning_rate == pytest.approx(rate)
    assert recipe(hidden_size=hidden, learning_rate_multiplier=0.5).learning_rate == pytest.approx(rate / 2)


def test_asked_values_are_taken_and_told_apart_from_chosen_ones() -> None:
    chosen = recipe(n_epochs=2.0, batch_size="auto", learning_rate_multiplier=1.5)
    assert chosen.hyperparameters() == {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.5}
    assert chosen.sources["n_epochs"] == "asked"
    assert chosen.sources["batch_size"].startswith("auto: ")
    assert chosen.asked == {"n_epochs": 2.0, "batch_size": "auto", "learning_rate_multiplier": 1.5}


def test_alpha_follows_the_rank() -> None:
    assert (recipe(rank=8).rank, recipe(rank=8).alpha) == (8, 16)
    assert (recipe(max_rank=8).rank, recipe(max_rank=8).alpha) == (8, 16)
    assert recipe(rank=8, alpha=8).alpha == 8


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"n_epochs": 0}, "n_epochs must be a whole number from 1 to 50"),
        ({"n_epochs": True}, "n_epochs must be a whole number"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"n_epochs": float("nan")}, "n_epochs must be a whole number"),
        ({"rank": 64}, "rank must be a whole number from 1 to 16"),
        ({"learning_rate_multiplier": 0}, "learning_rate_multiplier must be a number above 0"),
        ({"learning_rate_multiplier": float("inf")}, "learning_rate_multiplier must be a number above 0"),
        ({"learning_rate_multiplier": "fast"}, "learning_rate_multiplier must be a number above 0"),
        ({"epochs": 3}, "epochs is not an option"),
        ({"beta": 0.1}, "beta is not an option of this method"),
        ({"method": "dpo", "beta": 0}, "beta must be a number above 0 and at most 2"),
        ({"method": "dpo", "beta": 2.1}, "beta must be a number above 0 and at most 2"),
        ({"method": "dpo", "beta": True}, "beta must be a number"),
    ],
)
def test_values_that_cannot_be_trained_are_refused_by_name(asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(JobFailure, match=reason):
        recipe(**asked)


def test_other_methods_are_refused() -> None:
    with pytest.raises(JobFailure, match="'magic' is not offered"):
        recipe(method="magic")


@pytest.mark.parametrize("asked", [{}, {"beta": "auto"}, {"beta": None}])
def test_preferences_have_a_beta_and_a_smaller_rate(asked: dict[str, Any]) -> None:
    chosen = recipe(method="dpo", **asked)
    assert chosen.beta == 0.1
    assert chosen.sources["beta"].startswith("auto: ")
    assert chosen.learning_rate == pytest.approx(recipe().learning_rate / 20)
    assert chosen.hyperparameters() == recipe().hyperparameters() == recipe().method_hyperparameters()
    assert chosen.method_hyperparameters() == chosen.hyperparameters() | {"beta": 0.1}
    assert recipe(method="dpo", beta=2).beta == 2.0
    assert recipe().beta is None


def test_the_rate_rises_then_falls_almost_to_zero() -> None:
    chosen = recipe()
    rates = [chosen.learning_rate_at(step, 100) for step in range(1, 101)]
    assert rates[4] == max(rates) == chosen.learning_rate
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] <= chosen.learning_rate / 90
    assert chosen.learning_rate_at(1, 1) == chosen.learning_rate
