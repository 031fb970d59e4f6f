"""Nearly the same example twice teaches nothing new: MinHash over words finds the later ones. Knows no rows."""

import re
from collections.abc import Iterable

from rensa import RMinHash, RMinHashLSH

_PERMUTATIONS, _BANDS = 128, 32
_WORDS = re.compile(r"\w+")
_SHINGLE = 3


def near_duplicates(pairs: Iterable[tuple[int, str, str]], threshold: float, seed: int = 0) -> set[int]:
    """The numbers of questions whose like was kept earlier, with an answer that is alike, too.

    `pairs` are (number, question, answer) in the order in which the first of alike ones is kept. Two texts are alike
    when their word trigrams share at least `threshold` (Jaccard, 0 to 1), estimated by MinHash with 128 permutations:
    its standard error is at most 0.045. Both are looked at, because a form filled in with other numbers is nearly the
    same question, and only its answer tells whether there is something to learn.
    """
    index = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    kept: dict[int, tuple[RMinHash, RMinHash]] = {}
    found: set[int] = set()
    for number, *texts in pairs:
        asked, said = (_sketch(text, seed) for text in texts)
        likes = (kept[other] for other in index.query(asked))
        if any(asked.jaccard(one) >= threshold and said.jaccard(other) >= threshold for one, other in likes):
            found.add(number)
        else:
            kept[number] = asked, said
            index.insert(number, asked)
    return found


def _sketch(text: str, seed: int) -> RMinHash:
    sketch = RMinHash(num_perm=_PERMUTATIONS, seed=seed)
    sketch.update(_shingles(text))
    return sketch


def _shingles(text: str) -> list[str]:
    words = _WORDS.findall(text.lower())
    return [" ".join(words[at : at + _SHINGLE]) for at in range(max(1, len(words) - _SHINGLE + 1))]
