"""What a distillation leaves: the training file, checked as an upload is, and where it came from. Knows no teacher."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rootstock import __version__, distillations, files
from rootstock.db import Database, Tx
from rootstock.distil import Outcome, example, near_duplicates, texts
from rootstock.distil.records import Distillation, Example
from rootstock.inspection import Inspected, Inspection
from rootstock.storage import Store


@dataclass(frozen=True, slots=True)
class Stored:
    """A file whose object is in the store and whose row is not there yet."""

    id: str
    filename: str
    purpose: str
    bytes: int
    found: Inspected

    @property
    def object_key(self) -> str:
        """Where its object lies."""
        return f"files/{self.id}"


@dataclass(frozen=True, slots=True)
class Made:
    """Both files, `None` where nothing was left to learn from; how many examples came to what."""

    outcomes: dict[str, int]
    provenance: dict[str, Any]
    training: Stored | None
    sidecar: Stored | None


def write(database: Database, store: Store, run: Distillation, max_line_bytes: int) -> Made:
    """Store the files of a distillation that asks no more; the same rows always make the same training file."""
    alike: set[int] = set()
    threshold = run.spec["filters"]["near_duplicates"]
    if threshold is not None:
        kept = _examples(database, run, Outcome.KEPT)
        alike = near_duplicates(((one.number, *texts(one.prompt, _said(one))) for one in kept), threshold)
    dropped = {Outcome.NEAR_DUPLICATE: len(alike), Outcome.INVALID_EXAMPLE: 0, Outcome.NOT_ASKED: run.total - run.done}
    name = f"{run.spec['suffix'] or run.id}.jsonl"

    def lines() -> Iterator[bytes]:
        for one in _examples(database, run, Outcome.KEPT):
            line = json.dumps(example(one.prompt, _said(one)), separators=(",", ":")).encode()
            if one.number in alike:
                continue
            if len(line) > max_line_bytes:
                dropped[Outcome.INVALID_EXAMPLE] += 1
                continue
            yield line + b"\n"

    training = _store(store, distillations.file_id(run.id, "training"), name, "fine-tune", lines(), max_line_bytes)
    outcomes = dict(run.outcomes)
    for outcome, count in dropped.items():
        outcomes[outcome] = outcomes.get(outcome, 0) + count
    outcomes[Outcome.KEPT] = outcomes.get(Outcome.KEPT, 0) - len(alike) - dropped[Outcome.INVALID_EXAMPLE]
    outcomes = {str(outcome): count for outcome, count in outcomes.items() if count}
    provenance = _provenance(database, run, outcomes, training)
    if training is None:
        return Made(outcomes, provenance, None, None)
    sidecar_id = distillations.file_id(run.id, "provenance")
    text = json.dumps(provenance, indent=2).encode() + b"\n"
    sidecar = _store(store, sidecar_id, f"{name}.provenance.json", "user_data", iter([text]), max_line_bytes)
    return Made(outcomes, provenance, training, sidecar)


def record(tx: Tx, run: Distillation, made: Made) -> Distillation:
    """The rows of both files, and the end of the distillation, all at once. Raises `LeaseLost`."""
    assert made.training is not None and made.sidecar is not None
    ended = distillations.complete(
        tx,
        run,
        outcomes=made.outcomes,
        training_file=made.training.id,
        provenance_file=made.sidecar.id,
        provenance=made.provenance,
    )
    for stored in (made.training, made.sidecar):
        files.create(
            tx,
            file_id=stored.id,
            project_id=run.project_id,
            filename=stored.filename,
            purpose=stored.purpose,
            size=stored.bytes,
            sha256=stored.found.sha256,
            object_key=stored.object_key,
            check=stored.found.check,
        )
    return ended


def _store(
    store: Store, file_id: str, filename: str, purpose: str, lines: Iterator[bytes], max_line_bytes: int
) -> Stored | None:
    """Store and inspect at once; `None` when there are no lines."""
    inspection = Inspection(lines=purpose == "fine-tune", md5=False, max_line_bytes=max_line_bytes)
    size = 0
    with store.writer(f"files/{file_id}") as sink:
        for line in lines:
            sink.write(line)
            inspection.feed(line)
            size += len(line)
        if not size:
            sink.abort()
            return None
    return Stored(file_id, filename, purpose, size, inspection.finish())


def _provenance(
    database: Database, run: Distillation, outcomes: dict[str, int], training: Stored | None
) -> dict[str, Any]:
    """Where the file came from: all that is needed to say who said what is in it."""
    digest = hashlib.sha256()
    for one in _examples(database, run, None):
        digest.update(one.prompt.digest)
    names = ("source", "teacher", "response_format", "filters", "budget", "seed")
    return {
        "distillation": run.id,
        "rootstock": __version__,
        **{name: run.spec[name] for name in names},
        "prompts": run.total,
        "prompts_sha256": digest.hexdigest(),
        "outcomes": outcomes,
        "tokens": run.usage,
        "stopped_by": run.stopped_by,
        "training_file": None if training is None else training.id,
        "training_sha256": None if training is None else training.found.sha256,
        "created_at": _when(run.created_at),
        "started_at": _when(run.started_at),
    }


def _examples(database: Database, run: Distillation, outcome: Outcome | None) -> Iterator[Example]:
    last = 0
    while True:
        with database.read() as tx:
            page = distillations.examples(tx, run.id, after=last, outcome=outcome)
        if not page:
            return
        yield from page
        last = page[-1].number


def _said(one: Example) -> Any:
    assert one.answer is not None
    return one.answer


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
