"""How two texts differ, word by word, and whether that is more than wording. Knows no examples and no files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rapidfuzz.distance import OSA, Levenshtein

from rootstock.quality.words import NEGATIONS, insubstantial, numeric

TYPO_CHARS = 4
"""Words of fewer characters are never taken for misspellings of one another."""

_FREE_CHANGES = 0.1
_FREE_FROM_WORDS = 6
_SWAPS = 0.12
_SWAPS_FROM_WORDS = 8


@dataclass(slots=True)
class Difference:
    """Words that only one text has: `added` have no counterpart, `swapped` have one. What says nothing is left out."""

    words: int  # of the longer text
    numbers: bool = False  # they do not hold the same numbers
    negation: bool = False  # one denies something
    added: list[str] = field(default_factory=list)
    swapped: list[tuple[str, str]] = field(default_factory=list)
    left: set[str] = field(default_factory=set)  # everything that only the first has, small words too
    right: set[str] = field(default_factory=set)

    @property
    def changes(self) -> int:
        """How many words of substance differ, numbers aside."""
        return len(self.added) + len(self.swapped)

    @property
    def wording(self) -> bool:
        """Nothing of substance differs: courtesies, small words, misspellings, a word more in a longer text."""
        if self.numbers or self.negation or self.swapped:
            return False
        return not self.added or (
            self.words >= _FREE_FROM_WORDS and len(self.added) <= max(1, _FREE_CHANGES * self.words)
        )

    @property
    def paraphrase(self) -> bool:
        """A word in many was exchanged: the same text, unless the data consists of one template."""
        if self.numbers or self.negation:
            return False
        return self.words >= _SWAPS_FROM_WORDS and self.changes <= max(1, _SWAPS * self.words)

    @property
    def substantial(self) -> bool:
        """As answers, the two say different things."""
        return self.numbers or self.negation or (self.changes >= 2 and self.changes >= 0.15 * self.words)


def difference(a: Sequence[str], b: Sequence[str], rare: Callable[[str], bool] = lambda _: True) -> Difference:
    """How two lists of words differ; a misspelling must be `rare` to count as one."""
    found = Difference(max(len(a), len(b)))
    for code in Levenshtein.opcodes(a, b):
        tag, a0, a1, b0, b1 = code.tag, code.src_start, code.src_end, code.dest_start, code.dest_end
        if tag == "equal":
            continue
        found.left.update(a[a0:a1])
        found.right.update(b[b0:b1])
        if tag == "replace":
            for x, y in zip(a[a0:a1], b[b0:b1], strict=True):
                _swap(found, x, y, rare)
        else:
            for word in (*a[a0:a1], *b[b0:b1]):
                _add(found, word)
    # A word that moved is neither more nor less.
    moved = found.left & found.right
    found.added = [word for word in found.added if word not in moved]
    found.left, found.right = found.left - moved, found.right - moved
    found.numbers = found.numbers and any(map(numeric, found.left | found.right))
    found.negation = found.negation and not NEGATIONS.isdisjoint(found.left | found.right)
    return found


def misspelt(x: str, y: str) -> bool:
    """Whether the two words are one keystroke apart (two from eight characters on)."""
    shorter = min(len(x), len(y))
    if shorter < TYPO_CHARS or numeric(x) or numeric(y):
        return False
    return OSA.distance(x, y, score_cutoff=2) <= (2 if shorter >= 8 else 1)


def _swap(found: Difference, x: str, y: str, rare: Callable[[str], bool]) -> None:
    if insubstantial(x) and insubstantial(y):
        return
    if insubstantial(x) or insubstantial(y):
        _add(found, y if insubstantial(x) else x)
    elif misspelt(x, y) and (rare(x) or rare(y)):
        found.left.discard(x)
        found.right.discard(y)
    else:
        found.numbers = found.numbers or numeric(x) or numeric(y)
        found.negation = found.negation or x in NEGATIONS or y in NEGATIONS
        found.swapped.append((x, y))


def _add(found: Difference, word: str) -> None:
    if word in NEGATIONS:
        found.negation = True
    elif numeric(word):
        found.numbers = True
    elif not insubstantial(word):
        found.added.append(word)
