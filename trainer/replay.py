"""Mixes general examples into a job's own rows, against forgetting; which ones only the seed decides.

Knows no files and no jobs.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from rootstock.datasets import PARAMS, read_examples
from rootstock.errors import JobFailure
from trainer.base import Base
from trainer.data import Dataset, Row, encode


def choose(lines: Sequence[int], wanted: int, seed: int) -> Counter[int]:
    """How often each of some general examples, named by their lines, is taken, so that it is `wanted` in all.

    None is taken twice before all are taken once.
    """
    rounds, rest = divmod(wanted, len(lines))
    generator = torch.Generator().manual_seed(seed)
    once_more = torch.randperm(len(lines), generator=generator)[:rest].tolist()
    return Counter({line: rounds for line in lines if rounds}) + Counter(lines[place] for place in once_more)


def draw(general: Iterable[bytes], base: Base, *, wanted: int, seed: int, max_tokens: int) -> Dataset[Row]:
    """`wanted` of some general examples, tokenized; some may be in it several times.

    `general` is a container of the lines of a checked file, which is read twice: only what is chosen is tokenized. A
    conversation that teaches several turns counts once. Raises `JobFailure` for an example that cannot be learned from.
    """
    lines = [number for number, line in enumerate(general, 1) if line.strip()]
    if not lines:
        raise JobFailure("invalid_replay_file", "The replay file holds no example.", PARAMS["replay"])
    times = choose(lines, wanted, seed)
    chosen = (example for example in read_examples(general) if times[example.line])
    encoded = encode(chosen, base, max_tokens=max_tokens, role="replay")
    rows = tuple(row for row in encoded.rows for _ in range(times[row.line]))
    return Dataset(rows, times.total(), encoded.truncated, encoded.with_control_text)


def mix(own: Dataset[Row], general: Dataset[Row]) -> Dataset[Row]:
    """A job's own rows and the general ones behind them; each epoch shuffles them together."""
    return Dataset((*own.rows, *general.rows), own.examples + general.examples, own.truncated, own.with_control_text)


def told(file: str | None, general: Dataset[Row], own: Dataset[Row]) -> str:
    """What the job's log says of what is mixed in."""
    source = f"the file {file}" if file else "the set that comes with Rootstock"
    return (
        f"Replay: each epoch mixes {general.examples} general examples ({general.tokens:,} tokens) from {source} into "
        f"the {own.examples} of the job"
    )
