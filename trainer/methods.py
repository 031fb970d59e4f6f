"""What a training method does with a file, a batch and a forward pass; everything else about training is the loop's.

A method is one class here and an entry in `METHODS`. Knows nothing about steps, optimizers or files.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch

from trainer.data import Row, encode, micro_batches
from trainer.engine import Scores
from trainer.losses import dpo_loss, reward_margins
from trainer.preferences import Pair, encode_pairs
from trainer.recipe import Recipe
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


Passes = Generator[Pass, list[Sums], Any]
"""A computation that asks for its passes one by one."""


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

    score: ClassVar[Score]
    extra_metrics: ClassVar[tuple[str, ...]]

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


@dataclass(frozen=True, slots=True)
class ByLoss:
    """What the methods have in common that learn from what a file says."""

    recipe: Recipe
    aids: Any = None

    score: ClassVar[Score] = Score("full_valid_loss")
    extra_metrics: ClassVar[tuple[str, ...]] = ()

    def checkpoints_at(self, at: Moment) -> bool:
        """Every epoch's end."""
        return at.ends_epoch

    def collect(self, items: Sequence[Any], slot: Any, at: Moment) -> Passes:
        """The items themselves."""
        yield from ()
        return items

    def told(self, batch: Sequence[Any]) -> Metrics:
        """Nothing beside what is measured."""
        return {}

    def validate(self, items: Sequence[Any], slot: Any, at: Moment, token_budget: int) -> Passes:
        """A small sample now and then, in turn, so that in time each item is looked at; all at an epoch's end."""
        metrics: Metrics = {}
        every, size = max(1, min(10, at.total_steps // 10)), self.recipe.batch_size
        if at.step % every == 0 or at.ends_epoch:
            first = (at.step // every * size) % len(items)
            sample = [items[(first + i) % len(items)] for i in range(min(size, len(items)))]
            metrics |= yield from self._evaluate(slot, sample, token_budget, "valid")
        if at.ends_epoch:
            metrics |= yield from self._evaluate(slot, items, token_budget, "full_valid")
        return metrics

    def _evaluate(self, slot: Any, items: Sequence[Any], token_budget: int, prefix: str) -> Passes:
        seen: list[Sums] = []
        for part in micro_batches(items, token_budget):
            seen += yield Pass(slot, part, self.measure, None)
        return means(seen, prefix)

    def measure(self, items: Sequence[Any], scores: Scores) -> Measured:
        """See `Method`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Supervised(ByLoss):
    """Next-token prediction on what the examples' assistant says: the mean over learned tokens."""

    encode = staticmethod(encode)

    def prepare(self, items: Sequence[Row], slot: Any, token_budget: int, alive: Callable[[], None]) -> Passes:
        """Nothing to prepare."""
        yield from ()
        return items

    def size(self, items: Sequence[Row]) -> int:
        """Learned tokens."""
        return sum(sum(row.learn[1:]) for row in items)

    def measure(self, items: Sequence[Row], scores: Scores) -> Measured:
        """The summed loss of the rows."""
        loss, tokens = -scores.log_probs.sum(), len(scores.correct)
        return Measured(loss, {"loss": (loss.detach(), tokens), "mean_token_accuracy": (scores.correct.sum(), tokens)})


@dataclass(frozen=True, slots=True)
class Preferences(ByLoss):
    """Direct preference optimisation on pairs of outputs: the mean over pairs.

    The reference is the model that the training begins with: the base, or with a start adapter the model tuned before.
    It never changes, so its log-probabilities are computed once, before the first step, and no second model is kept. A
    resumed run computes them again before its state is loaded, from the same weights in the same order.
    """

    extra_metrics: ClassVar[tuple[str, ...]] = ("reward_margin", "reward_accuracy")
    encode = staticmethod(encode_pairs)

    def prepare(self, items: Sequence[Pair], slot: Any, token_budget: int, alive: Callable[[], None]) -> Passes:
        """The pairs with their reference."""
        reference: dict[int, float] = {}

        def look(pairs: Sequence[Pair], scores: Scores) -> Measured:
            both = scores.by_row()
            gaps = (both[0::2] - both[1::2]).tolist()
            reference.update({pair.chosen.line: gap for pair, gap in zip(pairs, gaps, strict=True)})
            return Measured(both.sum(), {})

        for part in micro_batches(items, token_budget):
            yield Pass(slot, part, look, None)
            alive()
        return [replace(pair, reference=reference[pair.chosen.line]) for pair in items]

    def size(self, items: Sequence[Pair]) -> int:
        """Pairs."""
        return len(items)

    def measure(self, items: Sequence[Pair], scores: Scores) -> Measured:
        """The summed loss of the pairs; the accuracy of tokens is that of the chosen outputs."""
        assert self.recipe.beta is not None
        both = scores.by_row()  # of each pair the chosen row, then the rejected one
        reference = both.new_tensor([pair.reference for pair in items])
        margins = reward_margins(both[0::2], both[1::2], reference, self.recipe.beta)
        loss, count = dpo_loss(margins), len(items)
        of_chosen = scores.row_of % 2 == 0
        sums: Sums = {
            "loss": (loss.detach(), count),
            "mean_token_accuracy": ((scores.correct & of_chosen).sum(), sum(scores.counts[0::2])),
            "reward_margin": (margins.detach().sum(), count),
            "reward_accuracy": ((margins > 0).sum(), count),
        }
        return Measured(loss, sums)


METHODS: dict[str, type[Supervised] | type[Preferences]] = {"supervised": Supervised, "dpo": Preferences}
"""The methods by the names that jobs and recipes give them; `TRAINABLE_METHODS` lists the same.

Besides `Method` each has `encode` (a checked file -> its items) and `extra_metrics` (beside loss and token accuracy).
"""


def means(seen: Sequence[Sums], prefix: str) -> Metrics:
    """The metrics of several passes taken together, by their names in contract 3.4: `train_loss`, ..."""
    names = list(seen[0]) if seen else []
    if not names:
        return {}
    # One look at the device for all of them.
    totals = torch.stack([torch.stack([sums[name][0].double() for name in names]) for sums in seen]).sum(0).tolist()
    counts = [sum(sums[name][1] for sums in seen) for name in names]
    return {f"{prefix}_{name}": total / count for name, total, count in zip(names, totals, counts, strict=True)}
