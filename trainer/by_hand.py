"""One training run from a YAML file, with a progress bar: the same loop as in a job, and no service around it.

Knows nothing about databases, queues and stores.
"""

import difflib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rootstock.datasets import Checker, judge, read_examples
from rootstock.errors import ConfigurationError, InvalidRequest
from rootstock.grading import PythonRunner, compile_grader, open_runner
from rootstock.records import TRAINABLE_METHODS, FileRole
from rootstock.release.replay import BUILT_IN, MOST_SHARE, count
from trainer import data, loop, recipe, replay
from trainer.admission import engine_for
from trainer.base import Base, load_base
from trainer.capacity import token_budget
from trainer.engine import Engine
from trainer.full import FullEngine
from trainer.loop import Checkpoint, Progress, Verdict
from trainer.methods import METHODS
from trainer.recipe import Recipe
from trainer.reinforce import Aids
from trainer.sampling import InProcess, Sampler
from trainer.task import Task, task

KEYS = {
    "training_file": "JSONL file to learn from (needed)",
    "validation_file": "JSONL file to measure on",
    "output": "folder for the adapter (needed, here or as --output)",
    "base_model": "folder or hub id; default: the configured base model",
    "seed": "whole number; default 0",
    "method": f"one of {', '.join(TRAINABLE_METHODS)}; default: the first",
    "hyperparameters": "any of "
    + ", ".join(dict.fromkeys(name for names in recipe.OPTIONS.values() for name in names)),
    "replay": "general examples to mix in: `share` of all, from `file` or those that come with Rootstock",
    "grader": "what an answer is worth, as in the API (method reinforcement only)",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a recipe runs: what a file does not say comes from the operator's settings."""

    base_model: str
    base_name: str
    device: str
    dtype: str
    threads: int
    context_tokens: int
    max_rank: int
    token_budget: int
    max_line_bytes: int
    runs: Path


def run_recipe(file: Path, output: Path | None, place: Place) -> None:
    """Train what the recipe file says and leave a PEFT folder with `recipe.json` and `metrics.jsonl`.

    Raises `ConfigurationError` or `JobFailure` with one sentence for anything wrong in the file or the data.
    """
    console = Console()
    asked = read_recipe(file)
    here = file.resolve().parent
    base = _base(asked, here, place)
    training = _dataset(asked, "training", here, base, place)
    validation = _dataset(asked, "validation", here, base, place) if asked.get("validation_file") else None
    facts = recipe.Facts(
        training.examples,
        base.hidden_size,
        base.context_tokens,
        base.dtype,
        place.max_rank,
        validation_examples=validation.examples if validation else 0,
    )
    wanted = asked.get("hyperparameters") or {}
    chosen = recipe.resolve(wanted, facts, seed=asked.get("seed", 0), method=_method(asked))
    _show(console, chosen, base, training)
    mixed = _with_replay(asked, training, here, base, chosen.n_epochs)
    folder = output or (Path(asked["output"]) if asked.get("output") else place.runs / file.stem)
    began = time.perf_counter()
    with _bar(console) as bar:
        follower = _Follower(bar)
        with (
            FullEngine(base) if chosen.type == "full" else engine_for(base) as engine,
            open_runner(place.runs / ".wasm") as python,
        ):
            result = loop.train(
                chosen,
                engine,
                mixed,
                validation,
                folder,
                follower,
                token_budget=token_budget(engine, place.token_budget),
                aids=_task(chosen, base, engine, training, validation)
                or _aids(asked, InProcess(base, engine), python, follower),
            )
    assert result.final is not None
    for path in [*result.final.adapter.iterdir(), result.final.adapter.parent / "recipe.json"]:
        shutil.move(path, folder / path.name)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    seconds = time.perf_counter() - began
    rate = result.trained_tokens / seconds
    console.print(f"{result.trained_tokens:,} tokens in {seconds:.1f} s ({rate:,.0f} per second); adapter: {folder}")


def read_recipe(file: Path) -> dict[str, Any]:
    """The recipe file as a mapping. Raises `ConfigurationError` with the sentence that helps."""
    try:
        asked = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"There is no recipe file {file}; examples/recipes/tiny.yaml is one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The recipe file {file} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"The recipe file {file} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(asked, Mapping):
        raise ConfigurationError(f"The recipe file {file} must hold `key: value` lines: {', '.join(KEYS)}.")
    for key in asked:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(KEYS)}"
            raise ConfigurationError(f"{key} is not a key of a recipe{hint}")
    if not asked.get("training_file"):
        raise ConfigurationError(f"The recipe file {file} does not name a training_file.")
    if not isinstance(asked.get("hyperparameters") or {}, Mapping):
        raise ConfigurationError(f"hyperparameters in {file} must hold `key: value` lines.")
    seed = asked.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ConfigurationError(f"seed in {file} must be a whole number from 0 to {2**31 - 1}, not {seed!r}.")
    if _method(asked) not in TRAINABLE_METHODS:
        raise ConfigurationError(f"method in {file} must be one of {', '.join(TRAINABLE_METHODS)}.")
    return dict(asked)


def _task(
    chosen: Recipe, base: Base, engine: Engine, training: data.Dataset[Any], validation: data.Dataset[Any] | None
) -> Task | None:
    if chosen.stopping_metric != "task":
        return None
    assert validation is not None  # the recipe was refused without
    return task(training, validation, base, chosen.seed, InProcess(base, engine))


def _aids(asked: Mapping[str, Any], sampler: Sampler, python: PythonRunner, follower: "_Follower") -> Aids | None:
    if _method(asked) != "reinforcement":
        return None
    try:
        grader = compile_grader(asked.get("grader") or {}, python=python, at="grader")
    except InvalidRequest as error:
        raise ConfigurationError(f"The grader cannot be used ({error.param}): {error.message}") from None
    return Aids(sampler, grader, failed=lambda reason: follower.warn("grading", reason))


def _method(asked: Mapping[str, Any]) -> str:
    return str(asked.get("method") or TRAINABLE_METHODS[0])


def _base(asked: Mapping[str, Any], here: Path, place: Place) -> Base:
    source, name = place.base_model, place.base_name
    if asked.get("base_model"):
        source = str(asked["base_model"])
        source = str(here / source) if (here / source).is_dir() else source
        name = source.rstrip("/").rpartition("/")[2]
    return load_base(
        source,
        name=name,
        device=place.device,
        dtype=place.dtype,
        threads=place.threads,
        context_tokens=place.context_tokens,
        quantised=(asked.get("hyperparameters") or {}).get("type") == "qlora",
    )


def _dataset(asked: Mapping[str, Any], role: FileRole, here: Path, base: Base, place: Place) -> data.Dataset[Any]:
    path = here / str(asked[f"{role}_file"])
    checker = Checker(place.max_line_bytes)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                checker.feed(chunk)
    except OSError as error:
        raise ConfigurationError(f"The {role}_file {path} cannot be read: {error.strerror}.") from None
    failure = judge(checker.finish(), role=role, file_id=path.name, method=_method(asked))
    if failure is not None:
        raise failure
    with path.open("rb") as file:
        encode = METHODS[_method(asked)].encode
        return encode(read_examples(file), base, max_tokens=base.context_tokens, role=role)


def _with_replay(
    asked: Mapping[str, Any], own: data.Dataset[Any], here: Path, base: Base, epochs: int
) -> data.Dataset[Any]:
    wish = asked.get("replay")
    if wish is None:
        return own
    if not isinstance(wish, Mapping) or not set(wish) <= {"share", "file"} or _method(asked) != "supervised":
        raise ConfigurationError("replay holds `share` and perhaps `file`, and goes with the method supervised.")
    share = wish.get("share")
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= MOST_SHARE:
        raise ConfigurationError(f"replay.share must be a number above 0 and at most {MOST_SHARE:g}, not {share!r}.")
    path = here / str(wish["file"]) if wish.get("file") else BUILT_IN
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigurationError(f"The replay file {path} cannot be read: {error.strerror}.") from None
    wanted, seed = count(own.examples, share), asked.get("seed", 0)
    most = base.context_tokens
    return replay.mix(own, replay.draw(lines, base, wanted=wanted, epochs=epochs, seed=seed, max_tokens=most))


def _show(console: Console, chosen: Recipe, base: Base, training: data.Dataset[Any]) -> None:
    console.print(f"base {base.name} on {base.device} in {base.dtype}; {training.examples} examples")
    for name, source in chosen.sources.items():
        value = getattr(chosen, name)
        if value is not None:
            console.print(
                f"  {name} = {value:g}  ({source})" if isinstance(value, float) else f"  {name} = {value}  ({source})",
                highlight=False,
            )
    if training.truncated:
        console.print(f"  warning: {training.truncated} examples are cut at {chosen.max_tokens} tokens")


def _bar(console: Console) -> Bar:
    return Bar(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    )


class _Follower:
    """Shows each step; keeps no checkpoint but the last."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("train", total=None, losses="")

    def alive(self) -> None:
        pass

    def step(self, progress: Progress) -> Verdict:
        shown = {"train_mean_reward": "reward", "full_valid_mean_reward": "validation reward", "train_loss": "loss"}
        losses = "  ".join(
            f"{label} {progress.metrics[key]:.3f}" for key, label in shown.items() if key in progress.metrics
        )
        if "valid_loss" in progress.metrics:
            losses += f"  validation {progress.metrics['valid_loss']:.3f}"
        if "train_reward_accuracy" in progress.metrics:
            losses += f"  preferred {progress.metrics['train_reward_accuracy']:.0%}"
        self._bar.update(self._task, total=progress.total_steps, completed=progress.step, losses=losses)
        return Verdict.GO

    def checkpoint(self, saved: Checkpoint) -> None:
        pass

    def warn(self, key: str, text: str) -> None:
        self._bar.console.print(f"warning: {text}")

    def handed_back(self, state: Path, step: int) -> None:
        raise NotImplementedError
