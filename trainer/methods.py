"""The training methods: what each does with a file, a batch and a forward pass; all else about training is the loop's.

A method is one class and an entry in `METHODS`. Knows nothing about steps, optimizers or files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from trainer.data import Row, encode, micro_batches
from trainer.engine import Scores
from trainer.losses import dpo_loss, reward_margins
from trainer.method import LOSS_COLUMNS, Measured, Moment, Pass, Passes, Sums, means
from trainer.preferences import Pair, encode_pairs
from trainer.recipe import Recipe
from trainer.reinforce import Reinforcement
from trainer.watch import LOSS, TASK, Metrics, Score


@dataclass(frozen=True, slots=True)
class ByLoss:
    """What the methods have in common that learn from what a file says."""

    recipe: Recipe
    aids: Any = None

    by_loss: ClassVar[bool] = True
    columns: ClassVar[dict[str, str]] = LOSS_COLUMNS

    @property
    def score(self) -> Score:
        """The loss of full validations, or what the answers to held-out examples are worth, as the recipe says."""
        return TASK if self.recipe.stopping_metric == "task" else LOSS

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
            if self.score is TASK:
                metrics[TASK.key] = yield from self.aids.measure(slot)
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

    columns: ClassVar[dict[str, str]] = LOSS_COLUMNS | {
        f"{split}_{name}": f"{split}_{name}"
        for split in ("train", "valid")
        for name in ("reward_margin", "reward_accuracy")
    }
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


METHODS: dict[str, type[Supervised] | type[Preferences] | type[Reinforcement]] = {
    "supervised": Supervised,
    "dpo": Preferences,
    "reinforcement": Reinforcement,
}
"""The methods by the names that jobs and recipes give them; `TRAINABLE_METHODS` lists the same.

Besides `Method` each has `encode` (a checked file -> its items) and `columns` (of the results file).
"""
