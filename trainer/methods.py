"""What a training method does with a file, a batch and a forward pass; everything else about training is the loop's.

A method is one class here and an entry in `METHODS`. Knows nothing about steps, optimizers or files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch

from trainer.base import Base
from trainer.data import Row, collate, encode, micro_batches
from trainer.losses import RowSums, dpo_loss, reward_margins, row_sums, sft_loss
from trainer.preferences import Pair, encode_pairs
from trainer.recipe import Recipe

Metrics = dict[str, float]

Sums = dict[str, tuple[float, int]]
"""Metric -> a sum, and over how many it runs. Added over the passes of a step they give its exact means."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One forward pass over some items."""

    loss: torch.Tensor  # summed as `Method.size` counts, with gradient
    sums: Sums  # of the metrics, the loss among them


class Method(Protocol):
    """What the loop asks of a training method. Its items are what the `encode` of its class makes of a file."""

    def prepare(self, items: Sequence[Any], token_budget: int, alive: Callable[[], None]) -> Sequence[Any]:
        """The items with what must be known of them before the first step, while the model is where it started.

        Calls `alive` after each forward pass.
        """

    def size(self, items: Sequence[Any]) -> int:
        """By how much the summed loss of a batch is divided."""

    def measure(self, items: Sequence[Any]) -> Measured:
        """One forward pass."""


@dataclass(frozen=True, slots=True)
class Supervised:
    """Next-token prediction on what the examples' assistant says: the mean over learned tokens."""

    base: Base
    recipe: Recipe

    extra_metrics: ClassVar[tuple[str, ...]] = ()
    encode = staticmethod(encode)

    def prepare(self, items: Sequence[Row], token_budget: int, alive: Callable[[], None]) -> Sequence[Row]:
        """Nothing to prepare."""
        return items

    def size(self, items: Sequence[Row]) -> int:
        """Learned tokens."""
        return sum(sum(row.learn[1:]) for row in items)

    def measure(self, items: Sequence[Row]) -> Measured:
        """The summed loss of the rows."""
        summed = sft_loss(self.base, *collate(items, self.base.device))
        loss, correct = summed.loss.item(), int(summed.correct)
        return Measured(summed.loss, {"loss": (loss, summed.tokens), "mean_token_accuracy": (correct, summed.tokens)})


@dataclass(frozen=True, slots=True)
class Preferences:
    """Direct preference optimisation on pairs of outputs: the mean over pairs.

    The reference is the model that the training begins with: the base, or with a start adapter the model tuned before.
    It never changes, so its log-probabilities are computed once, before the first step, and no second model is kept. A
    resumed run computes them again before its state is loaded, from the same weights in the same order.
    """

    base: Base
    recipe: Recipe

    extra_metrics: ClassVar[tuple[str, ...]] = ("reward_margin", "reward_accuracy")
    encode = staticmethod(encode_pairs)

    @torch.no_grad()
    def prepare(self, items: Sequence[Pair], token_budget: int, alive: Callable[[], None]) -> Sequence[Pair]:
        """The pairs with their reference."""
        reference: dict[int, float] = {}
        for part in micro_batches(items, token_budget):
            chosen, rejected = self._both(part)
            gaps = (chosen.log_probs - rejected.log_probs).tolist()
            reference |= {pair.chosen.line: gap for pair, gap in zip(part, gaps, strict=True)}
            alive()
        return [replace(pair, reference=reference[pair.chosen.line]) for pair in items]

    def size(self, items: Sequence[Pair]) -> int:
        """Pairs."""
        return len(items)

    def measure(self, items: Sequence[Pair]) -> Measured:
        """The summed loss of the pairs; the accuracy of tokens is that of the chosen outputs."""
        chosen, rejected = self._both(items)
        assert self.recipe.beta is not None
        reference = torch.tensor([pair.reference for pair in items], device=self.base.device)
        margins = reward_margins(chosen.log_probs, rejected.log_probs, reference, self.recipe.beta)
        loss, count = dpo_loss(margins), len(items)
        sums = {
            "loss": (loss.item(), count),
            "mean_token_accuracy": (int(chosen.correct.sum()), int(chosen.tokens.sum())),
            "reward_margin": (margins.sum().item(), count),
            "reward_accuracy": (int((margins > 0).sum()), count),
        }
        return Measured(loss, sums)

    def _both(self, pairs: Sequence[Pair]) -> tuple[RowSums, RowSums]:
        """Chosen and rejected rows in one pass."""
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        sums = row_sums(self.base, *collate(rows, self.base.device))
        halves = [each.chunk(2) for each in (sums.log_probs, sums.correct, sums.tokens)]
        return RowSums(*(half[0] for half in halves)), RowSums(*(half[1] for half in halves))


METHODS: dict[str, type[Supervised] | type[Preferences]] = {"supervised": Supervised, "dpo": Preferences}
"""The methods by the names that jobs and recipes give them; `TRAINABLE_METHODS` lists the same.

Besides `Method` each has `encode` (a checked file -> its items) and `extra_metrics` (beside loss and token accuracy).
"""


def means(seen: Sequence[Sums], prefix: str) -> Metrics:
    """The metrics of several passes taken together, by their names in contract 3.4: `train_loss`, ..."""
    return {
        f"{prefix}_{name}": sum(sums[name][0] for sums in seen) / sum(sums[name][1] for sums in seen)
        for name in (seen[0] if seen else ())
    }
