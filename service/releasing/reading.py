"""The plan of a release, read from the job's files: which questions, how they are scored, which examples a prompt gets.

The same for whoever reads it again: everything is drawn by the job's seed. Knows no model and no rows.
"""

import itertools
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rootstock.datasets import read_examples
from rootstock.datasets.lines import LineSplitter
from rootstock.quality import splitting
from rootstock.records import JobRecord
from rootstock.release import baseline, metrics
from rootstock.release.held_out import Question, question, usable_shots
from rootstock.release.metrics import Metric
from rootstock.release.verdict import FEWEST, Verdict, too_few
from rootstock.settings import Settings
from rootstock.storage import Store

TRAINING_BYTES = 64 * 1024 * 1024
"""So much of a training file is read: for the metric, the examples in the prompt, the one answer that fits most."""

TRAINING_EXAMPLES = 2000
MOST_SHOTS = 8
MOST_TOKENS = 1024
"""Of an answer."""

SAMPLED_TOKENS = 256
"""The longest answer to a prompt of reinforcement where the job names none."""

BLANKS = b" \t\r\n"

Line = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a tune is measured with."""

    questions: tuple[Question, ...]
    shots: tuple[Question, ...]
    metric: Metric
    constant: str | None  # the one answer that fits most; None where no right answers are known
    max_tokens: int
    grader: dict[str, Any] | None = None
    """Scores in place of the metric."""

    bar: float | None = None
    """As asked for."""

    @property
    def metric_name(self) -> str:
        """What the scores are called."""
        return self.metric.name if self.grader is None else "grader"


def has_held_out(job: JobRecord) -> bool:
    """Whether there are examples that the job does not train on."""
    return job.validation_object is not None or _split(job) is not None


def read(settings: Settings, store: Store, job: JobRecord) -> Plan | Verdict:
    """The plan, or why there can be none. Raises `StoreError`, and `JobFailure` for files that nobody checked."""
    aside = _set_aside(settings, store, job)
    asked = _asked(settings, store, job, aside)
    if len(asked) < FEWEST:
        return too_few(len(asked))
    wish = (job.rootstock or {}).get("measure") or {}
    if job.method["type"] == "reinforcement":
        # Its examples hold no right answers; what it is trained by is what it is measured by.
        longest = ((job.rootstock or {}).get("sampling") or {}).get("max_tokens") or SAMPLED_TOKENS
        grader = wish.get("grader") or job.method["reinforcement"]["grader"]
        most = min(longest, MOST_TOKENS)
        return Plan(tuple(asked), (), Metric("grader", metrics.same), None, most, grader, wish.get("bar"))
    chunks = _first(store.get(job.training_object), TRAINING_BYTES)
    learned = (line for line in _lines(settings, chunks) if line[0] not in aside)
    training = _questions(_draw(learned, TRAINING_EXAMPLES, f"{job.seed}/training"))
    right = [one.reference for one in training]
    metric = metrics.pick([*right, *(one.reference for one in asked)])
    return Plan(
        questions=tuple(asked),
        shots=tuple(_shots(training, asked, job.seed)),
        metric=metric,
        constant=baseline.constant(metric, right or [one.reference for one in asked]),
        max_tokens=max_tokens([one.reference for one in (*training, *asked)]),
        grader=wish.get("grader"),
        bar=wish.get("bar"),
    )


def held_out(settings: Settings, store: Store, job: JobRecord) -> list[Question]:
    """The questions that a tune of this job is asked: the same each time. Raises `StoreError`."""
    return _asked(settings, store, job, _set_aside(settings, store, job))


def _asked(settings: Settings, store: Store, job: JobRecord, aside: Collection[int]) -> list[Question]:
    lines = _lines(settings, store.get(job.validation_object or job.training_object))
    if job.validation_object is None:
        lines = (line for line in lines if line[0] in aside)
    return _questions(_draw(lines, settings.measure_examples, f"{job.seed}/held-out"))


def _split(job: JobRecord) -> dict[str, Any] | None:
    return (job.rootstock or {}).get("split")


def _set_aside(settings: Settings, store: Store, job: JobRecord) -> Collection[int]:
    """The lines of the training file that the trainer leaves out, by the rule that it follows."""
    wish = _split(job)
    if wish is None or job.validation_object is not None:
        return ()
    lines = (line for _, line in _every_line(settings, store.get(job.training_object)))
    return splitting.held_out(lines, share=wish["share"], seed=wish["seed"])


def max_tokens(references: Sequence[str]) -> int:
    """How long an answer may get: about twice the longest right one, which a tokenizer seldom spells in less than two
    bytes a token."""
    return min(MOST_TOKENS, max(len(text.encode()) for text in references) // 2 + 16)


def _shots(training: Sequence[Question], asked: Sequence[Question], seed: int) -> list[Question]:
    """Examples for the prompt, drawn at random, of as many different answers as there are."""
    known = {one.shown for one in asked}
    candidates = [shot for shot in usable_shots(training) if shot.shown not in known]
    random.Random(f"{seed}/shots").shuffle(candidates)
    seen: dict[str, int] = {}
    ranked = []
    for shot in candidates:
        seen[shot.reference] = seen.get(shot.reference, 0) + 1
        ranked.append((seen[shot.reference], shot))
    ranked.sort(key=lambda pair: pair[0])
    return [shot for _, shot in ranked[:MOST_SHOTS]]


def _questions(lines: Sequence[Line]) -> list[Question]:
    examples = read_examples(data for _, data in lines)
    found = (question(replace(example, line=number)) for (number, _), example in zip(lines, examples, strict=True))
    return [one for one in found if one is not None and (one.reference or one.item is not None)]


def _draw(lines: Iterator[Line], count: int, seed: str) -> list[Line]:
    """So many lines, each with the same chance (Vitter's algorithm R), in the order of the file."""
    chance = random.Random(seed)
    kept = list(itertools.islice(lines, count))
    for seen, line in enumerate(lines, start=count + 1):
        place = chance.randrange(seen)
        if place < count:
            kept[place] = line
    return sorted(kept)


def _lines(settings: Settings, chunks: Iterable[bytes]) -> Iterator[Line]:
    for number, line in _every_line(settings, chunks):
        if line is not None and line.strip(BLANKS):
            yield number, line


def _every_line(settings: Settings, chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes | None]]:
    splitter = LineSplitter(settings.max_line_bytes)
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.finish()


def _first(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Whole lines from the beginning, about so many bytes of them."""
    read = 0
    for chunk in chunks:
        read += len(chunk)
        if read > most:
            yield chunk[: chunk.rfind(b"\n") + 1]
            return
        yield chunk
