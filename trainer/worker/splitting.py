"""Lines held out of a job's training file for validation, where the job asks for it and names no validation file.

A function of the file, the share and the seed: a worker that goes on from a state holds out the same lines.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rootstock.errors import JobFailure
from rootstock.quality.splitting import held_out
from rootstock.records import JobRecord


@dataclass(frozen=True, slots=True)
class Part:
    """The lines of one side; those of the other read as blank, so that line numbers stay."""

    lines: Iterable[bytes]
    chosen: frozenset[int]
    inside: bool

    def __iter__(self) -> Iterator[bytes]:
        for number, line in enumerate(self.lines, 1):
            yield line if (number in self.chosen) is self.inside else b"\n"


def split_wish(job: JobRecord) -> dict[str, Any] | None:
    """The share and seed of the lines to hold out; `None` where nothing is."""
    return (job.rootstock or {}).get("split")


def parts(lines: Iterable[bytes], wish: dict[str, Any]) -> tuple[Part, Part]:
    """The lines to train on and those held out. Raises `JobFailure` where the file cannot be split."""
    chosen = frozenset(held_out(lines, share=wish["share"], seed=wish["seed"]))
    if not chosen:
        text = "The training file cannot be split: all its examples are nearly the same."
        raise JobFailure("invalid_training_file", text, "rootstock.split")
    return Part(lines, chosen, inside=False), Part(lines, chosen, inside=True)
