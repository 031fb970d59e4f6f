"""Texts as hashed words and runs of four characters, and how unusual they are among those of a set.

Hashing needs no vocabulary, so a table is of one size for any set and any language (Weinberger et al., 2009, "Feature
hashing for large scale multitask learning"). Digits count as one digit: an order number is no new topic.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BUCKETS = 1 << 15
RUN = 4
DIMENSIONS = 256

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"
)  # Japanese and Chinese have no spaces
_DIGIT = re.compile(r"\d")
_SPACE = re.compile(r"\s+")
_MIX = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], dtype=np.uint64)


def normal(text: str) -> str:
    """Lower case, one kind of digit, single spaces."""
    return _SPACE.sub(" ", _DIGIT.sub("0", text.lower())).strip()


def words(text: str) -> list[str]:
    """The words of a text in order, as they are compared."""
    return _WORD.findall(normal(text))


def word_ids(text: str) -> Ids:
    """The buckets of the different words of a text, in rising order."""
    return np.unique(
        np.array([zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS for word in set(words(text))], dtype=np.int64)
    )


def run_ids(text: str) -> Ids:
    """The buckets of the different runs of `RUN` characters, in rising order; a shorter text is filled up."""
    codes = np.frombuffer(normal(text).ljust(RUN).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = codes.astype(np.uint64)
    count = len(codes) - RUN + 1
    mixed = sum((codes[at : at + count] + np.uint64(1)) * _MIX[at] for at in range(RUN))
    return np.unique(((np.asarray(mixed) >> np.uint64(7)) % np.uint64(BUCKETS)).astype(np.int64))


class Rarity:
    """In how many texts of a set each bucket is; from that, how unusual a text is there.

    Example: `Rarity.of([word_ids("a b"), word_ids("a c")]).unusual(word_ids("d"))`.
    """

    def __init__(self, texts: int, within: npt.NDArray[np.int32]) -> None:
        self.texts = texts
        self.within = within

    @classmethod
    def of(cls, texts: Sequence[Ids]) -> "Rarity":
        """Counted from the buckets of each text."""
        within = np.zeros(BUCKETS, dtype=np.int32)
        for ids in texts:
            within[ids] += 1
        return cls(len(texts), within)

    def weights(self, ids: Ids) -> Floats:
        """The inverse document frequency of each bucket, in nats."""
        found: Floats = np.log((self.texts + 1.0) / (self.within[ids] + 1.0))
        return found

    def unusual(self, ids: Ids, without: Ids | None = None) -> float:
        """The mean inverse document frequency of a text's buckets, in nats; 0 for a text that has none.

        `without` are the buckets of one text of the set that counts as if it were not in it: the text itself, so that
        its score is that of a text which the set has not seen.
        """
        if not len(ids):
            return 0.0
        found, texts = self.within[ids].astype(np.float64), float(self.texts)
        if without is not None:
            found -= np.isin(ids, without, assume_unique=True)
            texts -= 1.0
        return float(np.mean(np.log((texts + 1.0) / (found + 1.0))))

    def direction(self, ids: Ids) -> Floats:
        """A text as a vector of length 1 (0 for an empty one), near that of a text with the same rare words."""
        vector = np.zeros(DIMENSIONS)
        signs = np.where((ids >> 8) & 1, 1.0, -1.0)
        np.add.at(vector, ids * 2654435761 % 2**32 % DIMENSIONS, signs * self.weights(ids))
        length = float(np.linalg.norm(vector))
        return vector / length if length else vector


def centres(vectors: Floats, count: int, seed: int) -> Floats:
    """Spherical k-means: `count` directions (at most) that the vectors gather around. Shapes (n, d) and (k, d)."""
    picked = np.random.default_rng(seed)
    found = vectors[picked.choice(len(vectors), size=min(count, len(vectors)), replace=False)]
    for _ in range(12):
        nearest = np.argmax(vectors @ found.T, axis=1)
        sums = np.zeros_like(found)
        np.add.at(sums, nearest, vectors)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        found = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), found)
    return found
