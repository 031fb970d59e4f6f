"""A difference, and how far chance alone may have brought it: the paired bootstrap (Efron 1979). Knows no metric.

The same questions are put before and after, so a question that is hard for both says nothing about the difference:
questions are drawn again, each with both of its answers. The interval is the percentiles of the means, widened for few
questions as Hesterberg has it (2015, "What Teachers Should Know About the Bootstrap", section 5.1.2).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

ROUNDS = 4000
CONFIDENCE = 0.95
CHUNK = 4_000_000
"""Numbers that are drawn at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and between what it would lie in 95 of 100 such samples."""

    low: float
    mean: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Rounded to what the numbers are good for."""
        return {"low": round(self.low, 4), "mean": round(self.mean, 4), "high": round(self.high, 4)}


def bootstrap(scores: Sequence[float], *, seed: int, rounds: int = ROUNDS) -> Interval:
    """The mean of some scores. Raises `ValueError` for none."""
    return paired_bootstrap([0.0] * len(scores), scores, seed=seed, rounds=rounds)


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], *, seed: int, rounds: int = ROUNDS, among: int = 1
) -> Interval:
    """How much higher `after` is than `before`, which are scores of the same questions in the same order.

    With `among` comparisons, all their intervals hold together as often as one alone would (Bonferroni). Raises
    `ValueError` for no scores, or for as many as do not match.
    """
    if len(before) != len(after) or not len(after):
        raise ValueError(f"{len(before)} scores before and {len(after)} after make no pairs")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    n = len(differences)
    means = np.concatenate([differences[drawn].mean(axis=1) for drawn in _draws(n, seed, rounds)])
    low, high = np.quantile(means, _percentiles(n, among))
    return Interval(float(low), float(differences.mean()), float(high))


def paired_macro_f1(
    before: Sequence[int], after: Sequence[int], references: Sequence[int], *, seed: int, rounds: int = ROUNDS
) -> Interval:
    """How much higher the macro-F1 of the answers `after` is; answers and references are numbers of labels, -1: none.

    The F1 is computed anew of each draw, of the labels that are among the references of that draw: a mean of F1s over
    questions would not be one. Raises `ValueError` as `paired_bootstrap`.
    """
    if not len(before) == len(after) == len(references) or not len(references):
        raise ValueError("answers and references make no pairs")
    wanted = np.asarray(references)
    labels = int(wanted.max()) + 1
    first, second = (_counts(np.asarray(answers), wanted, labels) for answers in (before, after))
    of_all = np.ones((1, len(wanted)))
    mean = _macro_f1(second, of_all)[0] - _macro_f1(first, of_all)[0]
    found = []
    for drawn in _draws(len(wanted), seed, rounds):
        weights = np.apply_along_axis(np.bincount, 1, drawn, minlength=len(wanted)).astype(np.float64)
        found.append(_macro_f1(second, weights) - _macro_f1(first, weights))
    low, high = np.quantile(np.concatenate(found), _percentiles(len(wanted)))
    return Interval(float(low), float(mean), float(high))


def _draws(n: int, seed: int, rounds: int) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    each = max(1, CHUNK // n)
    sizes = [min(each, rounds - done) for done in range(0, rounds, each)]
    return [generator.integers(0, n, (size, n)) for size in sizes]


def _counts(
    answers: NDArray[Any], wanted: NDArray[Any], labels: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """For each question and label: whether it is a hit, was said, was meant."""
    meant = np.eye(labels)[wanted]
    said = np.where((answers >= 0)[:, None], np.eye(labels)[np.clip(answers, 0, labels - 1)], 0.0)
    said[answers >= labels] = 0.0
    return said * meant, said, meant


def _macro_f1(counts: Counts, weights: NDArray[Any]) -> NDArray[Any]:
    hits, said, meant = (weights @ one for one in counts)
    there = meant > 0
    f1 = np.divide(2 * hits, said + meant, out=np.zeros_like(hits), where=there)
    return f1.sum(axis=1) / there.sum(axis=1)  # type: ignore[no-any-return]


def _percentiles(n: int, among: int = 1) -> tuple[float, float]:
    """The share of draws to leave out on each side: 2.5 % would be too narrow where there are few."""
    tail = (1 - CONFIDENCE) / 2 / among
    if n < 2:
        return 0.0, 1.0
    normal = statistics.NormalDist()
    wide = normal.cdf(-math.sqrt(n / (n - 1)) * _student(normal.inv_cdf(1 - tail), n - 1))
    return wide, 1 - wide


def _student(z: float, degrees: int) -> float:
    """The quantile of Student's t that belongs to the normal `z` (Abramowitz and Stegun 26.7.5)."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
