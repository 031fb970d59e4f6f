"""Mixes general examples into a job's own rows, against forgetting; which ones only the seed decides.

Knows no files and no jobs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from rootstock.datasets import Example, read_examples
from rootstock.errors import JobFailure
from rootstock.release import replay
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


def mix(
    own: Dataset[Row], general: Iterable[bytes], base: Base, *, share: float, seed: int, max_tokens: int
) -> Dataset[Row]:
    """A job's own rows and general ones behind them, which are `share` of the examples then.

    `general` is read twice: it is a container of the lines of a checked file. Only what is chosen is tokenized. A
    conversation that teaches several turns counts once. Raises `JobFailure` for an example that cannot be learned from.
    """
    lines = [number for number, line in enumerate(general, 1) if line.strip()]
    if not lines:
        raise JobFailure("invalid_replay_file", "The replay file holds no example.", "rootstock.replay.file")
    times = choose(lines, replay.count(own.examples, share), seed)
    encoded = encode(_chosen(read_examples(general), times), base, max_tokens=max_tokens, role="replay")
    rows = [row for row in encoded.rows for _ in range(times[row.line])]
    return Dataset((*own.rows, *rows), own.examples + times.total(), encoded.truncated, encoded.with_control_text)


def told(shown: Mapping[str, Any], own: int) -> str:
    """What the job's log says of what is mixed in; `shown` as the job shows it."""
    source = f"the file {shown['file']}" if shown["file"] else "the set that comes with Rootstock"
    return (
        f"Replay: each epoch mixes {shown['examples']} general examples ({shown['tokens']:,} tokens) from {source} among "
        f"the {own} of the training file"
    )


def _chosen(examples: Iterable[Example], times: Mapping[int, int]) -> Iterable[Example]:
    return (example for example in examples if times[example.line])
