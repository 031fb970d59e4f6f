"""Load on an OpenAI-compatible server: streamed requests by many clients at a time, and what each took.

The same client for every side. Knows no adapters beyond their names.
"""

import asyncio
import contextlib
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.serving.client import Raw, Side, Took

PAUSE_SECONDS = 0.05
"""A client waits up to this long before it asks again, as clients do: an engine that has just ended an answer is busy
for a moment, and who asks at once is kept waiting by that, not by what is measured."""

PROMPT = "My invoice of last month is wrong, what can I do about it? Please answer in a few words."


@dataclass(frozen=True)
class Figures:
    """Many requests together."""

    requests: int
    tokens_per_second: float
    first_p50_ms: float
    first_p95_ms: float
    first_p99_ms: float

    @classmethod
    def of(cls, took: Sequence[Took], seconds: float) -> "Figures":
        """The figures of requests that all ran within so many seconds."""
        firsts = sorted(1000 * one.first for one in took)
        return cls(
            len(took),
            round(sum(one.tokens for one in took) / seconds, 1),
            *(round(percentile(firsts, share), 2) for share in (0.5, 0.95, 0.99)),
        )


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values the one below which this share lies."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def zipf(names: Sequence[str], seed: int = 1) -> Callable[[], str]:
    """A source of names, the n-th asked for 1/n as often as the first."""
    source, weights = random.Random(seed), [1 / (place + 1) for place in range(len(names))]
    return lambda: source.choices(names, weights)[0]


def uniform(names: Sequence[str], seed: int = 1) -> Callable[[], str]:
    """A source of names, each as often as the others."""
    source = random.Random(seed)
    return lambda: source.choice(names)


async def drive(
    url: str,
    key: str,
    pick: Callable[[], str],
    *,
    clients: int,
    requests: int,
    tokens: int = 16,
    never: Sequence[int] = (),
    lead_in: bool = False,
) -> tuple[list[Took], float]:
    """So many requests by so many clients at a time; what each took, and all of them together. See `Side.ask`.

    With `lead_in` the first ones of the clients, which are all sent at once, come on top and are left out.
    """
    numbers, pauses = itertools.count(), random.Random(clients)
    answers: list[Raw] = []
    with contextlib.closing(Side(url, key)) as side:

        async def client() -> None:
            if lead_in:
                await side.ask(pick(), PROMPT, tokens, never)
            while next(numbers) < requests:
                await asyncio.sleep(pauses.uniform(0, PAUSE_SECONDS))
                answers.append(await side.ask(pick(), PROMPT, tokens, never))

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        seconds = time.perf_counter() - began
    return [answer.took() for answer in answers], seconds


def apart(
    one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], rounds: int = 2000
) -> tuple[float, float, float]:
    """The difference of two medians, `other` - `one`, over pairs of runs, and its 95 % interval: low, middle, high.

    The bootstrap draws pairs of runs, since values of one run resemble each other.
    """
    random_ = np.random.default_rng(1)

    def difference(runs: Sequence[int]) -> float:
        first, second = (np.median(np.concatenate([side[run] for run in runs])) for side in (one, other))
        return float(second - first)

    draws = [difference(random_.integers(0, len(one), len(one)).tolist()) for _ in range(rounds)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), difference(range(len(one))), float(high)


def faster(one: Sequence[float], other: Sequence[float], rounds: int = 2000) -> tuple[float, float, float]:
    """How many times as fast `other` was over the same work in pairs of runs, and its 95 % bootstrap interval.

    Speeds in, the ratio of the whole times out: low, middle, high.
    """
    random_ = np.random.default_rng(1)
    first, second = 1 / np.asarray(one), 1 / np.asarray(other)
    drawn = random_.integers(0, len(first), (rounds, len(first)))
    low, high = np.percentile(first[drawn].sum(axis=1) / second[drawn].sum(axis=1), (2.5, 97.5))
    return float(low), float(first.sum() / second.sum()), float(high)
