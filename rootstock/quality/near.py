"""Which texts are nearly the same, among very many: MinHash signatures and locality-sensitive hashing.

The one place that knows rensa (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3). Memory is
`PERMUTATIONS` * 4 bytes for each text. Knows nothing about what texts are.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from rootstock.quality.words import bag, words

PERMUTATIONS = 64
ROWS = 4  # of a band: two texts meet in one of 16 bands with probability 0.99 at a similarity of 0.7, 0.12 at 0.3
CROWD = 64  # texts of one bucket that are compared with one another; a larger one is cut into crowds
SEED = 42

Signatures = NDArray[np.uint32]


def signatures(bags: Sequence[Sequence[str]]) -> Signatures:
    """One row of `PERMUTATIONS` numbers for each set of features; see `words.bag`."""
    if not bags:
        return np.zeros((0, PERMUTATIONS), dtype=np.uint32)
    return np.array(
        RMinHash.digests_from_token_sets([list(each) for each in bags], PERMUTATIONS, SEED), dtype=np.uint32
    )


def pairs(signed: Signatures, least: float = 0.5) -> Iterator[tuple[int, int]]:
    """Pairs `(i, j)`, `i < j`, whose estimated similarity is at least `least`, each once.

    A text that resembles more than `CROWD` others is compared with those most like it only.
    """
    seen: set[int] = set()
    count = len(signed)
    for band in range(0, PERMUTATIONS, ROWS):
        part = np.ascontiguousarray(signed[:, band : band + ROWS])
        keys = part.view(np.uint64)
        mixed = keys[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ keys[:, 1]
        # Within a band, by another band: in a crowded bucket the most alike come to lie side by side.
        order = np.lexsort((signed[:, (band + ROWS) % PERMUTATIONS], mixed))
        ordered = mixed[order]
        edges = np.flatnonzero(np.diff(ordered)) + 1
        starts = np.concatenate(([0], edges))
        ends = np.concatenate((edges, [count]))
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            for at in range(start, end, CROWD):
                members = order[at : min(end, at + CROWD)]
                if len(members) < 2:
                    continue
                rows = signed[members]
                alike = (rows[:, None, :] == rows[None, :, :]).mean(axis=2) >= least
                for a, b in np.argwhere(np.triu(alike, 1)):
                    i, j = sorted((int(members[a]), int(members[b])))
                    if i * count + j not in seen:
                        seen.add(i * count + j)
                        yield i, j


def clusters(texts: Iterable[str], least: float = 0.7) -> list[list[int]]:
    """Indices of texts that are nearly the same, each cluster in order and with two members or more.

    `least` is the similarity (Jaccard, of words and pairs of words) from which two texts belong together.

    Example: `clusters(["where is my parcel now", "Where is my parcel now?", "refund"]) == [[0, 1]]`.
    """
    groups = Groups()
    for i, j in pairs(signatures([bag(words(text)) for text in texts]), least):
        groups.join(i, j)
    return groups.all()


class Groups:
    """Numbers that belong together, directly or through others."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def join(self, a: int, b: int) -> None:
        """From now on these two belong together."""
        first, second = sorted((self.find(a), self.find(b)))
        self._parent[second] = first

    def find(self, a: int) -> int:
        """The one that stands for its group, the smallest of it."""
        root = a
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while a != root:
            self._parent[a], a = root, self._parent[a]
        return root

    def all(self) -> list[list[int]]:
        """The groups of two and more, each in order."""
        found: dict[int, list[int]] = {}
        for a in sorted(self._parent):
            found.setdefault(self.find(a), []).append(a)
        return sorted(group for group in found.values() if len(group) > 1)
