"""How alike two texts are, 0 to 1. Pure functions; knows no templates.

fuzzy_match  rapidfuzz's `ratio`: insertions and deletions between the characters. Its partial ratios are not used,
             for they pay an answer that lists every candidate.
bleu, gleu   sentence scores with n-grams of 1 to 4 words and marks (a run of either is one token). BLEU has a 0.1 in
             place of a count of zero, and n-grams no longer than the text, so that equal texts score 1. NLTK's
             `sentence_bleu` (method1, auto_reweigh) and `sentence_gleu` over its `wordpunct_tokenize` give the same.
rouge_*      F1 of n-grams, or of the longest common subsequence, over lower-cased words; equal to rouge-score without
             stemming, for texts in ASCII. Letters of other scripts count too.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

_SMALL = 0.1  # in place of a count of zero, as in Chen and Cherry's first method


def fuzzy_match(text: str, reference: str) -> float:
    """The share of characters that stay when one text is turned into the other."""
    return float(fuzz.ratio(text, reference)) / 100


def bleu(text: str, reference: str) -> float:
    """How many of the text's n-grams the reference has, less a penalty for being shorter."""
    got, wanted = _marks(text), _marks(reference)
    if not got or not wanted:
        return 0.0
    total = 0.0
    longest = min(4, len(got))
    for n in range(1, longest + 1):
        ours = _grams(got, n)
        same, of = (ours & _grams(wanted, n)).total(), ours.total()
        if n == 1 and not same:
            return 0.0
        total += math.log((same or _SMALL) / of) / longest
    short = math.exp(1 - len(wanted) / len(got)) if len(got) < len(wanted) else 1.0
    return min(1.0, short * math.exp(total))


def gleu(text: str, reference: str) -> float:
    """The smaller of precision and recall, over n-grams of all lengths together."""
    got, wanted = _marks(text), _marks(reference)
    ours, theirs = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for n in range(1, 5):
        ours += _grams(got, n)
        theirs += _grams(wanted, n)
    most = max(ours.total(), theirs.total())
    return (ours & theirs).total() / most if most else 0.0


def rouge(n: int) -> Callable[[str, str], float]:
    """The measure that compares n-grams of `n` words."""

    def measure(text: str, reference: str) -> float:
        ours, theirs = _grams(_words(text), n), _grams(_words(reference), n)
        return _f1((ours & theirs).total(), ours.total(), theirs.total())

    return measure


def rouge_l(text: str, reference: str) -> float:
    """F1 of the words that both have in the same order."""
    ours, theirs = _words(text), _words(reference)
    return _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs))


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    **{f"rouge_{n}": rouge(n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}


def _marks(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _f1(same: int, ours: int, theirs: int) -> float:
    return 2 * same / (ours + theirs) if same else 0.0
