"""Mixes general examples into a job's own rows, against forgetting; which ones only the seed decides.

Each epoch takes other ones: what is repeated in every epoch would be learned by heart too, and teach nothing general.
Knows no files and no jobs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from rootstock.datasets import PARAMS, read_examples
from rootstock.errors import JobFailure
from trainer.base import Base
from trainer.data import Dataset, Row, encode


@dataclass(frozen=True, slots=True)
class General:
    """What is mixed in: a pool of tokenized examples, and how many `examples` of it an epoch takes."""

    pool: Dataset[Row]
    examples: int

    @property
    def rows(self) -> int:
        """Rows of an epoch; a conversation that teaches several turns has as many."""
        return max(1, round(len(self.pool.rows) * self.examples / self.pool.examples))

    @property
    def tokens(self) -> int:
        """Tokens of an epoch, on average."""
        return round(self.pool.tokens * self.rows / len(self.pool.rows))


def choose(lines: Sequence[int], wanted: int, seed: int) -> set[int]:
    """`wanted` of some general examples, named by their lines; all where there are not so many."""
    generator = torch.Generator().manual_seed(seed)
    return {lines[place] for place in torch.randperm(len(lines), generator=generator)[:wanted].tolist()}


def draw(general: Iterable[bytes], base: Base, *, wanted: int, epochs: int, seed: int, max_tokens: int) -> General:
    """Some general examples, tokenized: `wanted` for each epoch, other ones each time for as long as there are any.

    `general` is a container of the lines of a checked file, which is read twice: only what is chosen is tokenized.
    Raises `JobFailure` for an example that cannot be learned from.
    """
    lines = [number for number, line in enumerate(general, 1) if line.strip()]
    if not lines:
        raise JobFailure("invalid_replay_file", "The replay file holds no example.", PARAMS["replay"])
    chosen = choose(lines, wanted * epochs, seed)
    examples = (example for example in read_examples(general) if example.line in chosen)
    return General(encode(examples, base, max_tokens=max_tokens, role="replay"), wanted)


def mix(own: Dataset[Row], general: General) -> Dataset[Row]:
    """A job's own rows and the general ones behind them; each epoch shuffles its own ones and some of those."""
    return Dataset(
        (*own.rows, *general.pool.rows),
        own.examples + general.examples,
        own.truncated,
        own.with_control_text,
        pool=len(general.pool.rows),
        each=general.rows,
    )


def told(file: str | None, general: General, own: Dataset[Row]) -> str:
    """What the job's log says of what is mixed in."""
    source = f"the file {file}" if file else "the set that comes with Rootstock"
    return (
        f"Replay: each epoch mixes {general.examples} other general examples (about {general.tokens:,} tokens) from "
        f"{source} into the {own.examples} of the job"
    )
