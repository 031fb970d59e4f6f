"""Steps several jobs through the packed engine without the product's loop around it, together or one after another.

The same few lines that `trainer.loop` runs per step (forward, backward, clip, AdamW), so that sharing, products and
memory can be switched one at a time. Knows nothing about checkpoints or reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """One job: its recipe, the adapter it starts from (None: by seed), its rows in order."""

    recipe: Any
    start: Path | None
    rows: Sequence[Any]
    batch: int
    losses: list[float] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)  # after the last step

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return -(-len(self.rows) // self.batch)

    def rows_of(self, step: int) -> Sequence[Any]:
        """The rows of a step, counted from 0."""
        return self.rows[step * self.batch : (step + 1) * self.batch]


def together(engine: Any, jobs: Sequence[Job]) -> None:
    """Train all jobs, each step of all in one pass; a job leaves after its own last step."""
    slots = {id(job): engine.open(job.recipe, job.start) for job in jobs}
    for step in range(max(job.steps for job in jobs)):
        active = [job for job in jobs if step < job.steps]
        one_step(engine, [(job, slots[id(job)]) for job in active], step)
        for job in active:
            if step == job.steps - 1:
                slot = slots.pop(id(job))
                job.weights = slot.weights.tensors()
                engine.close(slot)


def alone(engine: Any, jobs: Sequence[Job]) -> None:
    """Train the jobs one after another in the same warm engine."""
    for job in jobs:
        together(engine, [job])


def one_step(engine: Any, pairs: Sequence[tuple[Job, Any]], step: int) -> None:
    """One optimizer step of each job; the losses, means over learned tokens, are read only once all is queued."""
    from trainer.data import tokens_of
    from trainer.driver import choose
    from trainer.methods import Pass

    losses: list[Any] = []
    waiting = list(pairs)
    while waiting:
        # Who shares a pass is decided as in the product: up to the tokens that keep the device busy.
        sizes = [(Pass(slot, (), lambda *_: None, 1), tokens_of(job.rows_of(step))) for job, slot in waiting]
        chosen = [waiting[number] for number in choose(sizes, engine.worth_sharing)]
        with engine.passing([(slot, job.rows_of(step)) for job, slot in chosen]) as scores:
            here = [-found.log_probs.sum() / sum(found.counts) for found in scores]
            sum(here).backward()
        losses += [(job, loss) for (job, _), loss in zip(chosen, here, strict=True)]
        waiting = [pair for pair in waiting if pair not in chosen]
    for job, slot in pairs:
        slot.finish_gradient()
        slot.weights.step(job.recipe.learning_rate_at(step + 1, job.steps), slot.weights.norm(), job.recipe.clip)
        slot.refresh()
    for job, loss in losses:
        job.losses.append(loss.detach())


def finish(jobs: Sequence[Job]) -> None:
    """Turn the losses into numbers."""
    for job in jobs:
        job.losses = [float(loss) for loss in job.losses]


def difference(left: Job, right: Job) -> float:
    """Relative difference of two adapters: norm of the difference over the norm of the second."""
    apart = sum(float((left.weights[name] - right.weights[name]).double().square().sum()) for name in right.weights)
    size = sum(float(tensor.double().square().sum()) for tensor in right.weights.values())
    return (apart / size) ** 0.5
