"""Replay: general examples mixed into a job's own, so that the tune keeps what its base can do.

How many, and those that come with the project (`scripts/replay_set.py` writes them). Knows no tokens and no jobs.
"""

from collections.abc import Iterator
from pathlib import Path

BUILT_IN = Path(__file__).with_name("replay.jsonl")

MOST_SHARE = 0.9
"""Of what is trained on; above that a job is more about the general examples than about its own."""


def lines() -> Iterator[bytes]:
    """The general examples that come with the project, as lines of a training file."""
    with BUILT_IN.open("rb") as file:
        yield from file


def count(own: int, share: float) -> int:
    """How many general examples go with `own` examples, so that they are `share` of all; at least one.

    Example: `count(80, 0.2)` is 20.
    """
    return max(1, round(own * share / (1 - share)))
