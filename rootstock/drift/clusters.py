"""Which of the calls behind an alarm to show: those that are like one another, and the words that they share.

Knows no event and no database.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rootstock.drift.features import Rarity, word_ids, words

ALIKE = 0.2
"""The cosine from which two prompts are of one cluster; rare words decide it."""

MOST_TERMS = 8


@dataclass(frozen=True, slots=True)
class Cluster:
    """Places of the prompts in the order to show them, how many of them are alike, and the words of those."""

    order: list[int]
    alike: int
    terms: list[str]


def newest(prompts: Sequence[str], rarity: Rarity) -> Cluster:
    """The largest group of prompts that are alike by their words, each weighed by its rarity in the training set."""
    if not prompts:
        return Cluster([], 0, [])
    vectors = np.array([rarity.direction(word_ids(prompt)) for prompt in prompts])
    near = vectors @ vectors.T >= ALIKE
    middle = int(np.argmax(near.sum(axis=1)))
    inside = [place for place in range(len(prompts)) if place == middle or near[middle, place]]
    rest = [place for place in range(len(prompts)) if place not in inside]
    counts = Counter(word for place in inside for word in set(words(prompts[place])))
    weighed = {word: count * _rarity(word, rarity) for word, count in counts.items() if len(word) > 1}
    terms = sorted(weighed, key=lambda word: (-weighed[word], word))[:MOST_TERMS]
    return Cluster(inside + rest, len(inside), [term for term in terms if weighed[term] > 0])


def _rarity(word: str, rarity: Rarity) -> float:
    return float(rarity.weights(word_ids(word)).sum())
