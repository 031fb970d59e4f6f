"""How alike two texts are, 0 to 1. Pure functions; knows no templates.

fuzzy_match  rapidfuzz's `ratio`: insertions and deletions between the characters. Its partial ratios are not used,
             for they pay an answer that lists every candidate.
bleu, gleu   NLTK's sentence scores over its `wordpunct_tokenize`, n-grams of 1 to 4. BLEU has a 0.1 in place of a
             count of zero (Chen and Cherry's first method), and n-grams no longer than the text, so that equal texts
             score 1.
rouge_*      F1 of n-grams, or of the longest common subsequence (rapidfuzz's), over lower-cased words; equal to
             rouge-score without stemming for texts in ASCII. That package, which has not moved since 2022, drops the
             letters of all other scripts.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq


def fuzzy_match(text: str, reference: str) -> float:
    """The share of characters that stay when one text is turned into the other."""
    return float(fuzz.ratio(text, reference)) / 100


def bleu(text: str, reference: str) -> float:
    """How many of the text's n-grams the reference has, less a penalty for being shorter."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # half a second, for those who ask for it

    got, wanted = _marks(text), _marks(reference)
    if not got or not wanted:
        return 0.0
    smoothed = SmoothingFunction().method1
    return min(1.0, float(sentence_bleu([wanted], got, smoothing_function=smoothed, auto_reweigh=True)))


def gleu(text: str, reference: str) -> float:
    """The smaller of precision and recall, over n-grams of all lengths together."""
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([_marks(reference)], _marks(text)))


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
    from nltk.tokenize import wordpunct_tokenize

    return list(wordpunct_tokenize(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _f1(same: int, ours: int, theirs: int) -> float:
    return 2 * same / (ours + theirs) if same else 0.0
