"""A run of the training loop on the small base, with a reporter that follows it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rootstock.datasets import Example
from rootstock.grading import compile_grader
from tests.trainer.harness import talk
from trainer.base import Base
from trainer.data import Dataset, Row, encode
from trainer.engine import PackedEngine
from trainer.loop import Checkpoint, Progress, Result, Verdict
from trainer.loop import train as train_with
from trainer.methods import METHODS
from trainer.preferences import Pair, encode_pairs
from trainer.recipe import Facts, Recipe, resolve
from trainer.reinforce import Aids, encode_prompts
from trainer.sampling import InProcess


class Follower:
    """Remembers everything; `at` answers with another verdict at some step."""

    def __init__(self, at: dict[int, Verdict] | None = None) -> None:
        self.at = at or {}
        self.steps: list[Progress] = []
        self.saved: list[Checkpoint] = []
        self.left: list[tuple[Path, int]] = []
        self.signs = 0
        self.warnings: list[str] = []

    def warn(self, key: str, text: str) -> None:
        self.warnings.append(key)

    def alive(self) -> None:
        self.signs += 1

    def step(self, progress: Progress) -> Verdict:
        self.steps.append(progress)
        return self.at.get(progress.step, Verdict.GO)

    def checkpoint(self, saved: Checkpoint) -> None:
        self.saved.append(saved)

    def handed_back(self, state: Path, step: int) -> None:
        self.left.append((state, step))


def train(recipe: Recipe, base: Base, *arguments: Any, **options: Any) -> Result:
    """One run on an engine of its own."""
    with PackedEngine(base) as engine:
        if recipe.method == "reinforcement":
            # Which answers are sampled hangs on the seed, so short ones show all that matters here.
            recipe = replace(recipe, max_sampled_tokens=12)
            options["aids"] = Aids(InProcess(base, engine), compile_grader(GRADER))
        return train_with(recipe, engine, *arguments, **options)


GRADER = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "fuzzy_match",
}


ANSWERS = ("yes", "no one", "the red apple", "a cat sleeps in the sun")
METHOD = pytest.mark.parametrize("method", list(METHODS))


def examples(count: int, base: Base) -> Dataset[Row]:
    talks = [talk((f"what is {n}?", ANSWERS[n % len(ANSWERS)])) for n in range(count)]
    return encode([Example(n, messages=t) for n, t in enumerate(talks, 1)], base, max_tokens=128)


def pairs(count: int, base: Base) -> Dataset[Pair]:
    """The same questions and answers, preferred to the answers of others."""
    return encode_pairs([preference(n) for n in range(1, count + 1)], base, max_tokens=128)


def preference(line: int) -> Example:
    asked, better = talk((f"what is {line - 1}?", ANSWERS[(line - 1) % len(ANSWERS)]))
    worse = {**better, "content": ANSWERS[line % len(ANSWERS)]}
    return Example(line, messages=[asked], preferred=[better], non_preferred=[worse])


def data_for(method: str, count: int, base: Base) -> Dataset[Any]:
    if method == "reinforcement":
        asked = [
            Example(n, messages=talk((f"what is {n}?", ""))[:1], item={"answer": ANSWERS[n % 4]}) for n in range(count)
        ]
        return encode_prompts(asked, base, max_tokens=128)
    return pairs(count, base) if method == "dpo" else examples(count, base)


def recipe_for(base: Base, count: int, method: str = "supervised", **asked: Any) -> Recipe:
    return resolve(asked, Facts(count, base.hidden_size, 128, base.dtype, 16), seed=5, method=method)


Run = Callable[..., tuple[Result, Follower]]


@pytest.fixture
def run(base: Base, tmp_path: Path) -> Run:
    """Train on ten examples, batches of four, two epochs: six steps."""
    number = iter(range(100))

    def start(
        *,
        at: dict[int, Verdict] | None = None,
        resume: Path | None = None,
        budget: int = 8192,
        method: str = "supervised",
        **asked: Any,
    ) -> tuple[Result, Follower]:
        follower = Follower(at)
        usual: dict[str, Any] = {"n_epochs": 2, "batch_size": 4, "rank": 4}
        if method == "reinforcement":
            usual |= {"eval_interval": 3, "compute_multiplier": 0.5, "eval_samples": 1}  # checkpoints at epochs' ends
        recipe = recipe_for(base, 10, method, **(usual | asked))
        result = train(
            recipe,
            base,
            data_for(method, 10, base),
            data_for(method, 3, base),
            tmp_path / f"run-{next(number)}",
            follower,
            token_budget=budget,
            resume=resume,
        )
        return result, follower

    return start


def losses(result: Result) -> list[float]:
    return [metrics["train_loss"] for metrics in result.history]
