"""What ended jobs teach: how many tokens a byte of a file is, and how long steps and tokens take. Knows no rows."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_PAST = 60
"""The newest jobs teach; older ones may have run on other machines."""

LEAST_PAST = 3
"""Fewer jobs than this tell no spread."""

LEAST_SECONDS = 0.01
"""A job that took less took no time that could be learned from."""

PARTS = 4
"""Of a job's time, see `Speed`."""

SURE = 0.9
"""The bars are to hold this share of jobs."""


@dataclass(frozen=True, slots=True)
class Bars:
    """A number that is not known yet: most likely `mean`, between `low` and `high` for nine jobs of ten."""

    low: float
    mean: float
    high: float

    def times(self, factor: float) -> "Bars":
        """All three times a factor."""
        return Bars(self.low * factor, self.mean * factor, self.high * factor)

    @classmethod
    def around(cls, value: float, spread: float) -> "Bars":
        """A value that may be `spread` times as large, or as small, as it is: 1.2 means within 20 %."""
        return cls(value / spread, value, value * spread)


@dataclass(frozen=True, slots=True)
class Past:
    """An ended job: what was known when it was created, and what it came to."""

    file_bytes: int  # of the training file
    examples: int  # in it
    passes: float  # epochs that it was trained for
    steps: int
    tokens: int  # trained
    seconds: float  # from the worker's claim to the end of training
    memory_bytes: int | None = None  # most that its worker took

    @property
    def length(self) -> float:
        """Tokens of an example, on average."""
        return self.tokens / max(1.0, self.examples * self.passes)


def bytes_per_token(past: Sequence[Past]) -> Bars | None:
    """Bytes of a training file to one token of training; `None` where nothing was learned."""
    rates = [job.file_bytes * job.passes / job.tokens for job in past[:MOST_PAST] if job.tokens and job.passes]
    if not rates:
        return None
    middle = float(np.median(rates))
    return Bars.around(middle, _spread(rates, [middle] * len(rates)))


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a job, and how far that was off so far.

    `fixed`, `step` for each step, `token` for each token, `pair` for each pair of a token and one of its example:
    attention looks at all of those, so tokens of long examples take longer.
    """

    fixed: float
    step: float
    token: float
    pair: float
    spread: float

    def seconds(self, steps: float, tokens: Bars, length: float) -> Bars:
        """How long so many steps and tokens take, in examples of `length` tokens."""
        each = self.token + self.pair * length
        low, mean, high = (self.fixed + self.step * steps + each * n for n in (tokens.low, tokens.mean, tokens.high))
        return Bars(low / self.spread, mean, high * self.spread)


def speed(past: Sequence[Past]) -> Speed | None:
    """What ended jobs tell of time; `None` when there are too few.

    Least squares of relative errors with no part below zero. The spread is that of jobs left out of the fit one by
    one, so a rule that only remembers has wide bars.
    """
    known = [job for job in past if job.tokens and job.seconds > LEAST_SECONDS][:MOST_PAST]
    if len(known) < LEAST_PAST:
        return None
    rows = np.array([[1.0, job.steps, job.tokens, job.tokens * job.length] for job in known])
    seconds = np.array([job.seconds for job in known])
    left_out = [float(rows[i] @ _fit(np.delete(rows, i, axis=0), np.delete(seconds, i))) for i in range(len(known))]
    fixed, step, token, pair = (float(part) for part in _fit(rows, seconds))
    return Speed(fixed, step, token, pair, _spread(list(seconds), left_out))


def _fit(rows: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    # Four parts at most: trying every subset is exact and needs no solver of its own.
    weighted, ones = rows / seconds[:, None], np.ones(len(seconds))
    best, least = np.zeros(PARTS), np.inf
    for size in range(1, PARTS + 1):
        for parts in itertools.combinations(range(PARTS), size):
            found, *_ = np.linalg.lstsq(weighted[:, parts], ones, rcond=None)
            error = float(np.sum((weighted[:, parts] @ found - ones) ** 2))
            if (found >= 0).all() and error < least * (1 - 1e-9):
                best = np.zeros(PARTS)
                best[list(parts)], least = found, error
    return best


def _spread(true: Sequence[float], told: Sequence[float]) -> float:
    """The factor within which `SURE` of further told values lie of the true ones.

    The split-conformal quantile of the errors so far (Vovk et al. 2005); where fewer than nine are known that would be
    no bound at all, so the largest is widened.
    """
    off = np.sort(np.abs(np.log(np.maximum(true, 1e-9)) - np.log(np.maximum(told, 1e-9))))
    place = min(len(off), math.ceil(SURE * (len(off) + 1)))
    few = 1 + 2 / len(off)
    return math.exp(max(0.02, float(off[place - 1])) * few)
