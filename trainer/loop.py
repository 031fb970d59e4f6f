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

from rootstock.adapters.proof import Passage
from trainer import checkpoint, proof, watch
from trainer.data import Dataset, epoch_order, micro_batches, tokens_of
from trainer.driver import alone
from trainer.engine import Engine
from trainer.method import Method, Moment, Pass, Sums, Wait, means
from trainer.methods import METHODS
from trainer.recipe import Recipe
from trainer.watch import Metrics

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

    def warn(self, key: str, text: str) -> None:
        """Tell the owner once (per `key`) of something that does not end the run."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended: with the final checkpoint, or stopped, paused or handed back."""

    verdict: Verdict  # GO: ran to its end
    history: list[Metrics]  # one entry per step, also of the steps before a resume
    trained_tokens: int  # those of every step's batch
    final: Checkpoint | None
    best_step: int | None  # whose full validation was the best
    stopped_early: str | None  # why it ended before its last step
    saved_tokens: int | None  # that it would have trained until then; None: it ran to its end, or nobody can tell
    passages: list[Passage]  # what the final adapter says at some places


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
    aids: Any = None,
) -> Generator[Pass | Wait | None, list[Sums], Result]:
    """Train one adapter, asking for each pass through the model: whoever drives it may compute several runs' at once.

    Equal arguments give equal adapters; a run resumed from `resume` (a state folder) goes on as if never stopped.
    `start` is the folder of an adapter to begin with instead of a fresh one; `aids` is what the method needs beside.
    A run that ends early by its recipe has a final checkpoint like any other; with `patience` it holds the weights of
    the best step. Raises `JobFailure` (`training_diverged`) when the loss is no number any more or stays far above its
    start, `AdapterInvalid` for a `start` that does not fit.
    """
    # Set up
    training.must_hold_rows()
    method: Method = METHODS[recipe.method](recipe, aids)
    steps_per_epoch = math.ceil(training.epoch_rows / recipe.batch_size)
    total_steps = steps_per_epoch * recipe.n_epochs
    slot = engine.open(recipe, start)
    try:
        # The model is where it started, also of a run that goes on: its state is loaded only below.
        rows = yield from method.prepare(training.rows, slot, token_budget, report.alive)
        held_out = yield from method.prepare(validation.rows if validation else (), slot, token_budget, report.alive)
        done = checkpoint.load_state(resume, slot.weights, recipe) if resume else checkpoint.Done()
        history = done.history
        slot.refresh()
        final, verdict, reason = None, Verdict.GO, None
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / "metrics.jsonl").open("w", encoding="utf-8") as metrics_file:
            metrics_file.writelines(json.dumps(metrics) + "\n" for metrics in history)
            for step in range(len(history) + 1, total_steps + 1):
                started = time.perf_counter()
                at = Moment(step, total_steps, steps_per_epoch)
                epoch, place = divmod(step - 1, steps_per_epoch)
                order = epoch_order(len(rows), recipe.seed, epoch, training.pool, training.each)
                chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
                batch = yield from method.collect([rows[i] for i in chosen], slot, at)

                # Step: the mean over the whole batch, however it is cut into passes
                seen: list[Sums] = []
                for part in micro_batches(batch, token_budget):
                    seen += yield Pass(slot, part, method.measure, method.size(batch))
                slot.finish_gradient()
                norm = slot.weights.norm()
                trained = means(seen, "train") | method.told(batch)
                if not (math.isfinite(trained.get("train_loss", 0.0)) and math.isfinite(float(norm))):
                    raise watch.diverged("is no finite number", step, total_steps, recipe)
                slot.weights.step(recipe.learning_rate_at(step, total_steps), norm, recipe.clip)
                slot.refresh()

                # Log
                metrics: dict[str, Any] = {"step": step, "total_steps": total_steps, **trained}
                if held_out:
                    metrics |= yield from method.validate(held_out, slot, at, token_budget)
                history.append(metrics)
                metrics_file.write(json.dumps(metrics) + "\n")
                metrics_file.flush()
                seconds, tokens = time.perf_counter() - started, tokens_of(batch)
                done.seconds, done.tokens = done.seconds + seconds, done.tokens + tokens
                verdict = report.step(Progress(step, total_steps, metrics, tokens, seconds))
                if verdict is Verdict.STOP:
                    break

                # Judge
                reason = _watch(method, recipe, slot, done, at, report)

                # Save
                ends = step == total_steps or reason is not None
                if ends or method.checkpoints_at(at) or verdict is Verdict.PAUSE:
                    folder = workdir / f"checkpoint-{step}"
                    saved = _save(folder, engine, slot, method, recipe, done, at, final=ends)
                    report.checkpoint(saved)
                    if saved.final:
                        final, verdict = saved, Verdict.GO
                        break
                elif verdict is Verdict.HAND_BACK:
                    checkpoint.save_state(workdir / "handed-back", slot.weights, recipe, done)
                    report.handed_back(workdir / "handed-back", step)
                if verdict is not Verdict.GO:
                    break
        passages = (yield from proof.take(held_out or rows, slot)) if final else []
    finally:
        engine.close(slot)
    return Result(
        verdict,
        history,
        done.tokens,
        final,
        _best(history, method, recipe),
        reason,
        training.tokens * recipe.n_epochs - done.tokens if reason and method.by_loss else None,
        passages,
    )


def train(recipe: Recipe, engine: Engine, *arguments: Any, token_budget: int = 8192, **options: Any) -> Result:
    """Drive one `run` to its end, alone. Takes what `run` takes and raises what it raises."""
    return alone(engine, run(recipe, engine, *arguments, token_budget=token_budget, **options), token_budget)


def _watch(
    method: Method, recipe: Recipe, slot: Any, done: checkpoint.Done, at: Moment, report: Reporter
) -> str | None:
    """Look at the latest step: does it go wrong, learn by heart, is it the best so far; why it is the last one."""
    history = done.history
    if method.by_loss and watch.runs_away(history):
        raise watch.diverged("stays far above where it started", at.step, at.total_steps, recipe)
    if method.by_loss and watch.overfits(history):
        report.warn("overfitting", watch.OVERFITTING.format(step=at.step))
    if recipe.patience is not None and at.step == _best(history, method, recipe):
        done.best = slot.weights.master.detach().to("cpu", copy=True)
    if at.step == at.total_steps:
        return None
    return watch.reason_to_end(history, recipe, method.score, tokens=done.tokens, seconds=done.seconds)


def _save(
    folder: Path,
    engine: Engine,
    slot: Any,
    method: Method,
    recipe: Recipe,
    done: checkpoint.Done,
    at: Moment,
    *,
    final: bool,
) -> Checkpoint:
    """Write the state and the adapter; the final adapter is the best one where that was kept."""
    metrics = done.history[-1]
    checkpoint.save_state(folder / "state", slot.weights, recipe, done)
    if final and done.best is not None:
        slot.weights.master.data.copy_(done.best)
        metrics = done.history[(_best(done.history, method, recipe) or at.step) - 1]
    targets = checkpoint.save_adapter(folder / "adapter", engine, slot, recipe)
    return Checkpoint(
        step=at.step,
        epoch=at.epochs,
        adapter=folder / "adapter",
        state=folder / "state",
        metrics=metrics,
        final=final,
        target_modules=targets,
    )


def _best(history: Sequence[Metrics], method: Method, recipe: Recipe) -> int | None:
    return watch.best_step(history, method.score, recipe.min_delta)
