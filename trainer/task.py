"""What a run's answers are worth: the held-out examples are asked, and scored as the release gate will score them.

Knows nothing about steps; `watch` compares the scores.
"""

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rootstock.release import metrics
from rootstock.release.metrics import Metric
from trainer.base import Base
from trainer.data import Dataset, Row, epoch_order
from trainer.method import Passes
from trainer.sampling import Sampler, through

MOST_ASKED = 64
"""Held-out examples that are asked at each validation; a larger file is represented by so many of it."""

MORE_TOKENS = 8
"""That an answer may take beyond the longest right one: enough to see that it is too long."""


@dataclass(frozen=True, slots=True)
class Question:
    """The tokens behind which the model answers, and the right answer."""

    ids: tuple[int, ...]
    answer: str
    tokens: int  # of the right answer


@dataclass(frozen=True, slots=True)
class Task:
    """Questions with a metric, and who answers them with the weights of a run. See `Sampling` for the rest."""

    questions: tuple[Question, ...]
    metric: Metric
    max_tokens: int  # of an answer
    sampler: Sampler
    alive: Callable[[], None] = lambda: None
    instead: Sampler | None = None
    unreached: Callable[[str], None] = lambda reason: None
    pool: ThreadPoolExecutor | None = None

    def measure(self, slot: Any) -> Passes:
        """The mean score of the likeliest answers, from 0 to 1."""
        prompts = [question.ids for question in self.questions]

        def ask(sampler: Sampler) -> list[str]:
            drawn = sampler.sample(slot, prompts, count=1, max_tokens=self.max_tokens, seed=0, greedy=True)
            return [one.text for (one,) in drawn]

        self.alive()
        answers = yield from through(self, ask)
        self.alive()
        pairs = zip(answers, self.questions, strict=True)
        return statistics.fmean(self.metric.score(text.strip(), question.answer) for text, question in pairs)


def task(
    training: Dataset[Row], validation: Dataset[Row], base: Base, seed: int, sampler: Sampler, **more: Any
) -> Task:
    """The task that these examples set. The metric is picked from the right answers of both files."""
    asked = [question(row, base) for row in validation.rows]
    right = [question(row, base).answer for row in training.rows] + [one.answer for one in asked]
    chosen = tuple(asked[place] for place in epoch_order(len(asked), seed, 0)[:MOST_ASKED])
    room = base.context_tokens - max(len(one.ids) for one in chosen)
    most = max(one.tokens for one in chosen) + MORE_TOKENS
    return Task(chosen, metrics.pick(right), max(1, min(room, most)), sampler, **more)


def question(row: Row, base: Base) -> Question:
    """The row's last answer that is learned, and what comes before it."""
    end = max(place for place, learned in enumerate(row.learn) if learned) + 1
    begin = end
    while begin > 1 and row.learn[begin - 1]:
        begin -= 1
    answer = base.tokenizer.decode(row.ids[begin:end], skip_special_tokens=True)
    return Question(row.ids[:begin], answer.strip(), end - begin)
