"""Judges a run by the metrics of its steps: which step was best, whether to end early, whether it goes wrong.

Pure functions of the history, so that a resumed run judges as one that was never interrupted. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rootstock.errors import JobFailure
from trainer.recipe import Recipe

Metrics = dict[str, float]

WINDOW = 10
"""Steps in a row that must be bad."""

WORSE_FACTOR, WORSE_NATS = 1.5, 0.5
NONSENSE = 5.0
"""Nats a token that no text costs a model that works: 150 words would be as likely as the right one."""

OVERFITTING = (
    "The validation loss rose twice in a row while the training loss fell (step {step}): the model begins to learn the "
    "examples by heart. Fewer n_epochs, more examples or rootstock.early_stopping help."
)


@dataclass(frozen=True, slots=True)
class Score:
    """What tells how good a model is: a metric of full validations, and whether more of it is better."""

    key: str
    higher: bool = False
    name: str = "validation loss"

    def beats(self, value: float, other: float, by: float = 0.0) -> bool:
        """Whether `value` is better than `other` by more than `by`."""
        return value > other + by if self.higher else value < other - by


LOSS = Score("full_valid_loss")
REWARD = Score("full_valid_mean_reward", higher=True, name="validation reward")
TASK = Score("full_valid_task_metric", higher=True, name="task metric")


def best_step(history: Sequence[Metrics], score: Score, min_delta: float = 0.0) -> int | None:
    """The first step whose full validation no later one beats; `None` without validation."""
    found: Metrics | None = None
    for metrics in history:
        if score.key in metrics and (found is None or score.beats(metrics[score.key], found[score.key], min_delta)):
            found = metrics
    return int(found["step"]) if found else None


def reason_to_end(
    history: Sequence[Metrics], recipe: Recipe, score: Score, *, tokens: int, seconds: float
) -> str | None:
    """Why the run ends behind its latest step although steps are left, in words for its owner; `None`: go on."""
    if recipe.budget_tokens is not None and tokens >= recipe.budget_tokens:
        return f"the budget of {recipe.budget_tokens:,} tokens is used ({tokens:,} trained)"
    if recipe.budget_minutes is not None and seconds >= 60 * recipe.budget_minutes:
        return f"the budget of {recipe.budget_minutes:g} minutes is used"
    measured = [int(metrics["step"]) for metrics in history if score.key in metrics]
    if recipe.patience is None or not measured or measured[-1] != history[-1]["step"]:
        return None
    best = best_step(history, score, recipe.min_delta)
    since = sum(step > (best or 0) for step in measured)
    if since < recipe.patience:
        return None
    times = "once" if since == 1 else f"{since} times in a row"
    return f"the {score.name} did not improve {times} (the best was at step {best})"


def overfits(history: Sequence[Metrics]) -> bool:
    """Whether the validation loss rose twice in a row while the training loss fell: it learns by heart."""
    measured = [metrics for metrics in history if LOSS.key in metrics]
    if len(measured) < 3 or measured[-1] is not history[-1]:
        return False
    first, second, third = (metrics[LOSS.key] for metrics in measured[-3:])
    between = [m["train_loss"] for m in history if measured[-3]["step"] < m["step"] <= measured[-2]["step"]]
    lately = [m["train_loss"] for m in history if m["step"] > measured[-2]["step"]]
    return first < second < third and fmean(lately) < fmean(between)


def runs_away(history: Sequence[Metrics]) -> bool:
    """Whether the loss has stayed far above where it started: the rate is too high, and no epoch will mend it."""
    if len(history) <= WINDOW:
        return False
    limit = max(WORSE_FACTOR * history[0]["train_loss"] + WORSE_NATS, NONSENSE)
    return min(metrics["train_loss"] for metrics in history[-WINDOW:]) > limit


def diverged(how: str, at: int, total_steps: int, recipe: Recipe) -> JobFailure:
    """What ends a run whose loss has gone wrong, at step `at`."""
    return JobFailure(
        "training_diverged",
        f"Training diverged: the loss {how} at step {at} of {total_steps}. Try a smaller "
        f"learning_rate_multiplier than {recipe.learning_rate_multiplier:g} or look for broken examples.",
        "hyperparameters",
    )
