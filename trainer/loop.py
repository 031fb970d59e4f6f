"""The training loop: set up, step, log, save, in one flat function that can be run by hand.

Knows no database, queue or bucket. Whoever runs it hears of each step through a `Reporter` and may end it there.
"""

import json
import logging
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from rootstock.errors import JobFailure
from trainer import checkpoint
from trainer.data import Dataset, epoch_order, micro_batches, tokens_of
from trainer.driver import alone
from trainer.engine import Engine
from trainer.methods import METHODS, Method, Metrics, Pass, Passes, Sums, means
from trainer.recipe import Recipe

log = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What the loop does after a step."""

    GO = "go"
    STOP = "stop"  # cancelled, or the job now belongs to another worker: end at once, keep nothing
    PAUSE = "pause"  # its owner wants it to rest: save a checkpoint that serves, another run goes on from it
    HAND_BACK = "hand_back"  # this process must leave: save the state, another one goes on from it


@dataclass(frozen=True, slots=True)
class Progress:
    """One finished optimizer step. `metrics` has the keys of contract 3.4, absent where nothing was computed."""

    step: int
    total_steps: int
    metrics: Metrics
    tokens: int  # of this step, padding excluded
    seconds: float  # that this step took


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved point of the run: a PEFT directory that serves, and the state to resume from."""

    step: int
    epoch: int  # how many are complete
    adapter: Path
    state: Path
    metrics: Metrics
    final: bool
    target_modules: list[str]


class Reporter(Protocol):
    """Who follows a run."""

    def alive(self) -> None:
        """Hear that something got done before the first step; may raise to end the run there."""

    def step(self, progress: Progress) -> Verdict:
        """Hear of a finished step and say how to go on."""

    def checkpoint(self, saved: Checkpoint) -> None:
        """Keep the checkpoint of an epoch's end or of a pause; its folders may be moved away."""

    def handed_back(self, state: Path, step: int) -> None:
        """Keep the state of a run that leaves between two checkpoints."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended: with the final checkpoint, or stopped, paused or handed back."""

    verdict: Verdict  # GO: ran to its end
    history: list[Metrics]  # one entry per step, also of the steps before a resume
    trained_tokens: int  # tokens of the training rows times epochs
    final: Checkpoint | None


def run(
    recipe: Recipe,
    engine: Engine,
    training: Dataset[Any],
    validation: Dataset[Any] | None,
    workdir: Path,
    report: Reporter,
    *,
    token_budget: int = 8192,
    start: Path | None = None,
    resume: Path | None = None,
) -> Generator[Pass, list[Sums], Result]:
    """Train one adapter, asking for each pass through the model: whoever drives it may compute several runs' at once.

    Equal arguments give equal adapters; a run resumed from `resume` (a state folder) goes on as if never stopped.
    `start` is the folder of an adapter to begin with instead of a fresh one.
    Raises `JobFailure` (`training_diverged`) when the loss is no number any more, `AdapterInvalid` for a `start` that
    does not fit.
    """
    # Set up
    method: Method = METHODS[recipe.method](recipe)
    steps_per_epoch = math.ceil(len(training.rows) / recipe.batch_size)
    total_steps = steps_per_epoch * recipe.n_epochs
    validate_every = max(1, min(10, total_steps // 10))
    slot = engine.open(recipe, start)
    try:
        # The model is where it started, also of a run that goes on: its state is loaded only below.
        rows = yield from method.prepare(training.rows, slot, token_budget, report.alive)
        kept = validation.rows if validation else ()
        held_out = yield from method.prepare(kept, slot, token_budget, report.alive)
        history = checkpoint.load_state(resume, slot.weights, recipe) if resume else []
        slot.refresh()
        final, verdict = None, Verdict.GO
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / "metrics.jsonl").open("w", encoding="utf-8") as metrics_file:
            metrics_file.writelines(json.dumps(metrics) + "\n" for metrics in history)
            for step in range(len(history) + 1, total_steps + 1):
                started = time.perf_counter()
                epoch, place = divmod(step - 1, steps_per_epoch)
                order = epoch_order(len(rows), recipe.seed, epoch)
                chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
                batch = [rows[i] for i in chosen]

                # Step: the mean over the whole batch, however it is cut into passes
                seen: list[Sums] = []
                for part in micro_batches(batch, token_budget):
                    seen += yield Pass(slot, part, method.measure, method.size(batch))
                slot.finish_gradient()
                norm = slot.weights.norm()
                trained = means(seen, "train")
                if not (math.isfinite(trained["train_loss"]) and math.isfinite(float(norm))):
                    raise _diverged(step, total_steps, recipe)
                slot.weights.step(recipe.learning_rate_at(step, total_steps), norm, recipe.clip)
                slot.refresh()

                # Log
                last_of_epoch = place == steps_per_epoch - 1
                metrics: dict[str, Any] = {"step": step, "total_steps": total_steps, **trained}
                if held_out and (step % validate_every == 0 or last_of_epoch):
                    sample = _sample(held_out, step // validate_every, recipe.batch_size)
                    metrics |= yield from _evaluate(method, slot, sample, token_budget, "valid")
                if held_out and last_of_epoch:
                    metrics |= yield from _evaluate(method, slot, held_out, token_budget, "full_valid")
                history.append(metrics)
                metrics_file.write(json.dumps(metrics) + "\n")
                metrics_file.flush()
                seconds = time.perf_counter() - started
                verdict = report.step(Progress(step, total_steps, metrics, tokens_of(batch), seconds))
                if verdict is Verdict.STOP:
                    break

                # Save
                if last_of_epoch or verdict is Verdict.PAUSE:
                    folder = workdir / f"checkpoint-{step}"
                    targets = checkpoint.save_adapter(folder / "adapter", engine, slot, recipe)
                    checkpoint.save_state(folder / "state", slot.weights, recipe, history)
                    saved = Checkpoint(
                        step=step,
                        epoch=epoch + last_of_epoch,
                        adapter=folder / "adapter",
                        state=folder / "state",
                        metrics=metrics,
                        final=step == total_steps,
                        target_modules=targets,
                    )
                    report.checkpoint(saved)
                    if saved.final:
                        final, verdict = saved, Verdict.GO
                elif verdict is Verdict.HAND_BACK:
                    checkpoint.save_state(workdir / "handed-back", slot.weights, recipe, history)
                    report.handed_back(workdir / "handed-back", step)
                if verdict is not Verdict.GO:
                    break
    finally:
        engine.close(slot)
    return Result(verdict, history, training.tokens * recipe.n_epochs, final)


def train(recipe: Recipe, engine: Engine, *arguments: Any, token_budget: int = 8192, **options: Any) -> Result:
    """Drive one `run` to its end, alone. Takes what `run` takes and raises what it raises."""
    return alone(engine, run(recipe, engine, *arguments, token_budget=token_budget, **options), token_budget)


def _sample(rows: Sequence[Any], turn: int, size: int) -> list[Any]:
    """A small validation batch: the next rows in turn, so that in time each one is looked at."""
    first = (turn * size) % len(rows)
    return [rows[(first + i) % len(rows)] for i in range(min(size, len(rows)))]


def _evaluate(method: Method, slot: Any, rows: Sequence[Any], token_budget: int, prefix: str) -> Passes:
    seen: list[Sums] = []
    for part in micro_batches(rows, token_budget):
        seen += yield Pass(slot, part, method.measure, None)
    return means(seen, prefix)


def _diverged(step: int, total_steps: int, recipe: Recipe) -> JobFailure:
    return JobFailure(
        "training_diverged",
        f"Training diverged: the loss is no finite number at step {step} of {total_steps}. Try a smaller "
        f"learning_rate_multiplier than {recipe.learning_rate_multiplier:g} or look for broken examples.",
        "hyperparameters",
    )
