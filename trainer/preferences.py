"""Checked preference examples -> pairs of rows, the chosen and the rejected output behind the same prompt.

Knows nothing about models, files or stores.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rootstock.datasets import Example
from rootstock.records import FileRole
from trainer.base import Base
from trainer.data import Dataset, Row, encode, fault


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt; in both rows only the answer is learned."""

    chosen: Row
    rejected: Row
    reference: float = 0.0  # log p(chosen) - log p(rejected) under the model that the training began with

    @property
    def sequences(self) -> tuple[Row, ...]:
        """What goes through the model for it."""
        return (self.chosen, self.rejected)


def encode_pairs(
    examples: Iterable[Example], base: Base, *, max_tokens: int, role: FileRole = "training"
) -> Dataset[Pair]:
    """Tokenize and mask both sides of each example as `encode` does, truncation and faults included.

    Raises `JobFailure` with the line number also when one side is nothing but prompt after the cut, and when the chat
    template cannot show an output of several messages as one sequence.
    """
    encoded = encode(_sides(examples), base, max_tokens=max_tokens, role=role)
    pairs = []
    for line, rows in itertools.groupby(encoded.rows, key=lambda row: row.line):
        sides = tuple(rows)
        if len(sides) != 2:
            raise fault(role, line, "the base model's chat template needs outputs of a single assistant message")
        pairs.append(Pair(*sides))
    return Dataset(tuple(pairs), encoded.examples, encoded.truncated, encoded.with_control_text)


def _sides(examples: Iterable[Example]) -> Iterator[Example]:
    for example in examples:
        assert example.messages is not None
        assert example.preferred is not None
        assert example.non_preferred is not None
        # What was said before is context only, whoever said it.
        asked = [m | {"weight": 0} if m["role"] == "assistant" else m for m in example.messages]
        for output in (example.preferred, example.non_preferred):
            yield replace(example, messages=[*asked, *output], preferred=None, non_preferred=None)
