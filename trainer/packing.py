"""Rows of several jobs -> one row of tokens: each job's lie together, and what rows of a job share is there once.

The shared beginnings form a tree per job: a segment attends to itself and to the segments above it, so every position
sees exactly what it would see in a row of its own. Nothing is ever shared between jobs: their adapters differ, so the
keys and values do. Knows nothing about models or weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.data import Row

MIN_SHARED = 16
"""Shorter common beginnings cost more in additional segments than they save in tokens."""

Tokens = np.ndarray
"""Token ids, `[tokens]`, big-endian so that sorting bytes sorts rows."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of the packed row that belong to one branch of a job's tree."""

    start: int
    length: int
    above: tuple[int, ...]  # numbers of the segments before it in its rows, outermost first


@dataclass(frozen=True, slots=True)
class Part:
    """One job's share of a packed row."""

    start: int  # its tokens are [start, end)
    end: int
    labels: int  # learned tokens
    row_of: torch.Tensor  # [labels], int64: which of its rows each belongs to
    counts: tuple[int, ...]  # learned tokens of each row


@dataclass(frozen=True, slots=True)
class Packed:
    """One forward pass for several jobs. Labels are in the order of parts, rows and positions."""

    ids: torch.Tensor  # [tokens]
    positions: torch.Tensor  # [tokens], as each token's own row counts them
    segments: tuple[Segment, ...]  # in order, covering all tokens
    parts: tuple[Part, ...]
    sources: torch.Tensor  # [labels]: the packed position whose hidden state predicts each learned token
    targets: torch.Tensor  # [labels]: the learned token ids

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.ids)


def pack(jobs: Sequence[Sequence[Row]], *, share: bool = True) -> Packed:
    """Pack the rows of each job. `share` False gives every row its whole text, for comparison.

    Example: `pack([[row, row], [row]])` for two jobs.
    """
    ids: list[Tokens] = []
    positions: list[np.ndarray] = []
    segments: list[Segment] = []
    parts, sources, targets = [], [], []
    start = 0
    for rows in jobs:
        texts = [np.array(row.ids, dtype=">i4") for row in rows]
        tree = _Tree(texts, start, len(segments), share)
        ids += tree.ids
        positions += tree.positions
        segments += tree.segments
        numbers, counts = [], []
        for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
            learned = np.flatnonzero(np.array(row.learn[1:]))  # token t + 1 is predicted at position t
            sources.append(tree.places[number][learned])
            targets.append(text[learned + 1])
            numbers.append(np.full(len(learned), number))
            counts.append(len(learned))
        row_of = torch.from_numpy(np.concatenate(numbers))
        parts.append(Part(start, tree.end, sum(counts), row_of, tuple(counts)))
        start = tree.end
    return Packed(_tensor(ids), _tensor(positions), tuple(segments), tuple(parts), _tensor(sources), _tensor(targets))


def _tensor(pieces: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(pieces).astype(np.int64))


class _Tree:
    """The shared beginnings of one job's rows, laid out from packed position `start` on."""

    def __init__(self, texts: Sequence[Tokens], start: int, first_segment: int, share: bool) -> None:
        self.ids: list[Tokens] = []
        self.positions: list[np.ndarray] = []
        self.segments: list[Segment] = []
        self.places: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(texts)
        self.end = start
        self._first = first_segment
        self._texts = texts
        if share:
            self._order = sorted(range(len(texts)), key=lambda i: texts[i].tobytes())
            pairs = zip(self._order, self._order[1:], strict=False)
            self._common = [_common(texts[a], texts[b]) for a, b in pairs]
        else:
            self._order = list(range(len(texts)))
            self._common = [0] * (len(texts) - 1)
        self._branch(0, len(texts), 0, ())

    def _branch(self, low: int, high: int, depth: int, above: tuple[int, ...]) -> None:
        """Lay out the rows [low, high) of the order, whose first `depth` tokens are there already."""
        while low < high:
            run = low + 1
            while run < high and self._common[run - 1] - depth >= MIN_SHARED:
                run += 1
            if run - low == 1:
                self._add(self._order[low], depth, len(self._texts[self._order[low]]), above, [self._order[low]])
            else:
                shared = min(self._common[low : run - 1])
                rows = self._order[low:run]
                self._add(rows[0], depth, shared, above, rows)
                self._branch(low, run, shared, (*above, self._first + len(self.segments) - 1))
            low = run

    def _add(self, text: int, begin: int, end: int, above: tuple[int, ...], rows: Sequence[int]) -> None:
        length = end - begin
        places = np.arange(self.end, self.end + length)
        for row in rows:
            self.places[row] = np.concatenate([self.places[row], places])
        if length == 0:  # a row that ends where its branch does
            return
        self.segments.append(Segment(self.end, length, above))
        self.ids.append(self._texts[text][begin:end])
        self.positions.append(np.arange(begin, end))
        self.end += length


def _common(first: Tokens, second: Tokens) -> int:
    size = min(len(first), len(second))
    different = np.flatnonzero(first[:size] != second[:size])
    return int(different[0]) if len(different) else size
