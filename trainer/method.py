"""What the loop asks of a training method, and the values that pass between them. Knows no method.

A method's items are what its `encode` makes of a file; the loop hands them back to it batch by batch.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from trainer.data import Row
from trainer.engine import Scores
from trainer.watch import Metrics, Score

Sums = dict[str, tuple[torch.Tensor, int]]
"""Metric -> a sum (a tensor, so that nothing waits for a device), and over how many it runs. Added over the passes of a
step they give its exact means."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One forward pass over some items."""

    loss: torch.Tensor  # summed as `Method.size` counts, with gradient
    sums: Sums  # of the metrics, the loss among them


Measure = Callable[[Sequence[Any], Scores], Measured]


@dataclass(frozen=True, slots=True)
class Pass:
    """What a run wants computed next: its items through the model, and `measure` of their scores.

    Whoever computes it may cut the items into several passes; a run gets back the sums of each.
    """

    slot: Any
    items: Sequence[Any]
    measure: Measure
    size: int | None  # what the summed loss is divided by; None: no gradient is wanted

    @property
    def rows(self) -> list[Row]:
        """What goes through the model."""
        return [row for item in self.items for row in item.sequences]


@dataclass(frozen=True, slots=True)
class Wait:
    """What a run waits for that needs no model here: graders, another server. Others train meanwhile."""

    future: Future[Any]


Passes = Generator[Pass | Wait | None, list[Sums], Any]
"""A computation that asks for its passes one by one, and waits in between."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run is: behind the update of step `step`."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def ends_epoch(self) -> bool:
        """Whether the epoch's last batch was this step's."""
        return self.step % self.steps_per_epoch == 0

    @property
    def epochs(self) -> int:
        """How many are complete."""
        return self.step // self.steps_per_epoch


class Method(Protocol):
    """What the loop asks of a training method. Its items are what the `encode` of its class makes of a file."""

    by_loss: ClassVar[bool]  # whether the loss tells how well it goes, and the tokens of a step are those of its items
    columns: ClassVar[dict[str, str]]

    @property
    def score(self) -> Score:
        """What tells which step is the best."""

    def checkpoints_at(self, at: Moment) -> bool:
        """Whether a checkpoint is made here, behind a full validation."""

    def collect(self, items: Sequence[Any], slot: Any, at: Moment) -> Passes:
        """The batch to learn from at this step, made of the next items of the file."""

    def validate(self, items: Sequence[Any], slot: Any, at: Moment, token_budget: int) -> Passes:
        """The metrics of the held-out items that are due here; none at most steps."""

    def told(self, batch: Sequence[Any]) -> Metrics:
        """What `collect` found out about the batch, to be told with the step."""

    def prepare(self, items: Sequence[Any], slot: Any, token_budget: int, alive: Callable[[], None]) -> Passes:
        """The items with what must be known of them before the first step, while the model is where it started.

        Calls `alive` after each pass.
        """

    def size(self, items: Sequence[Any]) -> int:
        """By how much the summed loss of a batch is divided."""

    def measure(self, items: Sequence[Any], scores: Scores) -> Measured:
        """The loss of the items and what else is told of them."""


LOSS_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""Column of the results file -> key of the step's metrics (contract 3.7)."""


def means(seen: Sequence[Sums], prefix: str) -> Metrics:
    """The metrics of several passes taken together, by their names in contract 3.4: `train_loss`, ..."""
    names = list(seen[0]) if seen else []
    if not names:
        return {}
    # One look at the device for all of them.
    totals = torch.stack([torch.stack([sums[name][0].double() for name in names]) for sums in seen]).sum(0).tolist()
    counts = [sum(sums[name][1] for sums in seen) for name in names]
    return {f"{prefix}_{name}": total / count for name, total, count in zip(names, totals, counts, strict=True)}
