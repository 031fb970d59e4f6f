"""Reinforcement fine-tuning: the model answers, a grader says what each answer is worth, better ones become likelier.

Group relative policy optimisation (Shao et al. 2024, DeepSeekMath), one update for each batch of answers, without a
value model; the loss is normalised over all tokens of the batch (Yu et al. 2025, DAPO), as TRL's default is. Knows no
kind of grader: `Aids` holds one that is ready to grade.
"""

import contextvars
import json
import logging
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rootstock.datasets import Example
from rootstock.grading import Grade, Grader, Judge, Sample
from rootstock.records import FileRole
from trainer.base import Base
from trainer.chat import CannotRender
from trainer.data import Dataset, Row, fault
from trainer.engine import Scores
from trainer.method import Measured, Moment, Passes, Sums, Wait
from trainer.recipe import Recipe
from trainer.sampling import Sampled, Sampler, through
from trainer.watch import REWARD, Metrics, Score

log = logging.getLogger(__name__)

GRADED_AT_ONCE = 8
MOST_IMPORTANCE = 2.0
"""How much more than once a token may count that another engine found less likely."""

SPREAD = 1e-4
"""Added to the spread of a group's rewards, which may be zero (TRL's value)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, as the tokens behind which the model answers, and what the grader compares with."""

    line: int
    ids: tuple[int, ...]
    item: dict[str, Any]

    @property
    def sequences(self) -> tuple[Row, ...]:
        """The prompt alone; nothing of it is learned."""
        return (Row(self.line, self.ids, (False,) * len(self.ids)),)


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt with a sampled answer, and how much better than its group's mean it was."""

    row: Row
    advantage: float
    sampled: tuple[float, ...] = ()  # log-probabilities of its tokens where they were sampled, if not here

    @property
    def sequences(self) -> tuple[Row, ...]:
        """What goes through the model for it."""
        return (self.row,)


class Answers(list[Answer]):
    """The answers of a step that teach something, and what is told of all of them."""

    def __init__(self, answers: Iterable[Answer], tokens: int, metrics: Metrics) -> None:
        super().__init__(answers)
        self.tokens = tokens  # of all answers of the step
        self.metrics = metrics


@dataclass(frozen=True, slots=True)
class Aids:
    """What reinforcement needs beside a model."""

    sampler: Sampler
    grader: Grader
    judge: Judge | None = None
    schema: dict[str, Any] | None = None  # of `response_format`: answers that are no JSON of it are told
    alive: Callable[[], None] = lambda: None
    failed: Callable[[str], None] = lambda reason: None  # hears why grading failed
    instead: Sampler | None = None  # samples here when the other cannot be had
    unreached: Callable[[str], None] = lambda reason: None  # hears why it could not
    pool: ThreadPoolExecutor | None = None  # where graders work while others train; None: nobody waits


def encode_prompts(
    examples: Iterable[Example], base: Base, *, max_tokens: int, role: FileRole = "training"
) -> Dataset[Prompt]:
    """Render and tokenize what is asked. Raises `JobFailure` with the line of a prompt that leaves no room."""
    prompts = []
    for example in examples:
        messages = example.messages or []
        if base.template is None:
            raise fault(role, example.line, "the base model has no chat template, which reinforcement needs")
        if not messages or messages[-1]["role"] == "assistant":
            raise fault(role, example.line, "it ends with an answer; reinforcement needs one that is still to be found")
        try:
            text = base.template.prompt_text(messages, example.tools)
        except CannotRender as error:
            raise fault(role, example.line, str(error)) from error
        ids = tuple(base.tokenizer(text, add_special_tokens=False)["input_ids"])
        if len(ids) > max_tokens // 2:
            raise fault(role, example.line, f"its {len(ids)} tokens leave no room for an answer within {max_tokens}")
        prompts.append(Prompt(example.line, ids, example.item or {}))
    return Dataset(tuple(prompts), len(prompts))


@dataclass(frozen=True, slots=True)
class Reinforcement:
    """Answers to a step's prompts are sampled, graded and learned from once."""

    recipe: Recipe
    aids: Any = None

    by_loss: ClassVar[bool] = False
    columns: ClassVar[dict[str, str]] = {
        name: name
        for name in (
            "step",
            "train_mean_reward",
            "full_valid_mean_reward",
            "train_loss",
            "train_entropy",
            "train_completion_tokens_mean",
        )
    }
    encode = staticmethod(encode_prompts)

    @property
    def score(self) -> Score:
        """The mean reward of full validations."""
        return REWARD

    def prepare(self, items: Sequence[Prompt], slot: Any, token_budget: int, alive: Callable[[], None]) -> Passes:
        """Nothing to prepare."""
        yield from ()
        return items

    def checkpoints_at(self, at: Moment) -> bool:
        """Every validation, and the end."""
        return self._due(at)

    def collect(self, items: Sequence[Prompt], slot: Any, at: Moment) -> Passes:
        """Sample and grade; what is no better or worse than its group teaches nothing and is left out."""
        assert self.recipe.samples is not None
        drawn, grades = yield from self._answer(items, slot, at, self.recipe.samples, "training")
        answers = [
            Answer(_row(prompt, sampled), advantage, sampled.log_probs)
            for prompt, group, graded in zip(items, drawn, grades, strict=True)
            for sampled, advantage in zip(group, advantages([g.reward for g in graded]), strict=True)
            if advantage != 0.0
        ]
        lengths = [len(sampled.ids) for group in drawn for sampled in group]
        return Answers(answers, sum(lengths), {
            "train_mean_reward": _mean_reward(grades),
            "train_completion_tokens_mean": statistics.fmean(lengths),
        })  # fmt: skip

    def told(self, batch: Sequence[Any]) -> Metrics:
        """The mean reward."""
        assert isinstance(batch, Answers)
        return dict(batch.metrics)

    def size(self, items: Sequence[Any]) -> int:
        """Tokens of all answers of the step, those without advantage among them."""
        assert isinstance(items, Answers)
        return items.tokens

    def measure(self, items: Sequence[Answer], scores: Scores) -> Measured:
        """The policy gradient: the answers' log-probabilities, weighted by their advantages."""
        weights = scores.log_probs.new_tensor([answer.advantage for answer in items])[scores.row_of]
        ours, tokens = scores.log_probs.detach(), len(scores.correct)
        # An estimate of the entropy: the sampled tokens' surprise.
        sums: Sums = {"entropy": (-ours.sum(), tokens)}
        if all(answer.sampled for answer in items):
            # Another engine rounds otherwise, so its answers come from a slightly different policy: truncated
            # importance sampling, as TRL corrects for vLLM (Yao et al. 2025).
            theirs = ours.new_tensor([value for answer in items for value in answer.sampled])
            weights = weights * torch.exp(ours - theirs).clamp(max=MOST_IMPORTANCE)
            sums["sampling_gap"] = ((ours - theirs).abs().sum(), tokens)
        # The quotient is 1, as one update follows on each sample; its gradient is that of the log-probability.
        loss = -(torch.exp(scores.log_probs - ours) * weights).sum()
        return Measured(loss, {"loss": (loss.detach(), tokens), **sums})

    def validate(self, items: Sequence[Prompt], slot: Any, at: Moment, token_budget: int) -> Passes:
        """The mean reward of answers to all held-out prompts, where a checkpoint is due."""
        if not self._due(at):
            return {}
        assert self.recipe.eval_samples is not None
        drawn, grades = yield from self._answer(items, slot, at, self.recipe.eval_samples, "validation")
        metrics = {"full_valid_mean_reward": _mean_reward(grades)}
        if self.aids.schema is not None:
            bad = [not _parses(sampled.text) for group in drawn for sampled in group]
            metrics["full_valid_mean_parse_error"] = statistics.fmean(bad)
        return metrics

    def _due(self, at: Moment) -> bool:
        assert self.recipe.eval_interval is not None
        return at.step % self.recipe.eval_interval == 0 or at.step == at.total_steps

    def _answer(self, prompts: Sequence[Prompt], slot: Any, at: Moment, count: int, use: str) -> Passes:
        """Answers to each prompt and their grades; other jobs train while graders work."""
        aids: Aids = self.aids
        drawn = yield from through(aids, lambda sampler: self._sample(prompts, slot, at, count, use, sampler))
        if aids.pool is None:
            return drawn, self._grade(prompts, drawn)
        graded = aids.pool.submit(contextvars.copy_context().run, self._grade, prompts, drawn)
        yield Wait(graded)
        return drawn, graded.result()

    def _sample(
        self,
        prompts: Sequence[Prompt],
        slot: Any,
        at: Moment,
        count: int,
        use: str,
        sampler: Sampler,
    ) -> list[list[Sampled]]:
        assert self.recipe.max_sampled_tokens is not None
        self.aids.alive()
        # Every step and use draws from a stream of its own, so that a resumed run draws what the first would have.
        seed = (self.recipe.seed * 1_000_003 + 2 * at.step + (use == "validation")) % 2**63
        drawn: list[list[Sampled]] = sampler.sample(
            slot, [p.ids for p in prompts], count=count, max_tokens=self.recipe.max_sampled_tokens, seed=seed
        )
        self.aids.alive()
        return drawn

    def _grade(self, prompts: Sequence[Prompt], drawn: Sequence[Sequence[Sampled]]) -> list[list[Grade]]:
        aids: Aids = self.aids

        def grade(pair: tuple[Prompt, Sampled]) -> Grade:
            prompt, sampled = pair
            return aids.grader.grade(prompt.item, Sample.of(sampled.text), aids.judge)

        pairs = [(prompt, sampled) for prompt, group in zip(prompts, drawn, strict=True) for sampled in group]
        with ThreadPoolExecutor(GRADED_AT_ONCE) as pool:
            grades = iter(list(pool.map(grade, pairs)))
        aids.alive()
        found = [[next(grades) for _ in group] for group in drawn]
        reason = next((g.failed for group in found for g in group if g.failed), None)
        if reason is not None:
            aids.failed(reason)
        return found


def advantages(rewards: Sequence[float]) -> list[float]:
    """How much better each answer of one prompt was than their mean, in standard deviations; zeros where all are equal.

    Example: `advantages([1.0, 0.0])` is about `[0.71, -0.71]`.
    """
    mean = statistics.fmean(rewards)
    spread = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
    return [0.0 if spread == 0.0 else (reward - mean) / (spread + SPREAD) for reward in rewards]


def _mean_reward(grades: Sequence[Sequence[Grade]]) -> float:
    return statistics.fmean(grade.reward for group in grades for grade in group)


def _row(prompt: Prompt, sampled: Sampled) -> Row:
    learn = (False,) * len(prompt.ids) + (True,) * len(sampled.ids)
    return Row(prompt.line, prompt.ids + sampled.ids, learn)


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
