"""The data report of stored files: made once for each pair of training and validation file and context, kept, weighed.

Files never change, so neither does their report. Which findings end a job is decided when it is read. Knows no HTTP.
"""

import contextlib
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import IO, Any

import sqlalchemy as sa

from rootstock import db, tables
from rootstock.datasets.lines import LineSplitter, NotUtf8
from rootstock.db import Database, Tx
from rootstock.errors import JobFailure
from rootstock.quality import Kind, Severity, report
from rootstock.quality.findings import EXIT_CODES
from rootstock.storage import Store

_reports = tables.data_reports

ALWAYS_BLOCKING = (Kind.NO_TRAINABLE_TOKENS,)
"""What ends a job whatever the project's policy says, beside what is unusable."""

MOST_LINES = 40_000
MOST_BYTES = 256 * 1024 * 1024
"""Of each file: what is compared line by line must fit beside what serves requests. `rootstock data check` has no such
bound."""

SMALL_BYTES = 128 * 1024
"""Up to this a report takes less time than a process takes to start."""

_LENGTH = struct.Struct(">I")

_one_at_a_time = threading.Lock()
"""A report of a large file takes a minute of one core: requests wait for one another."""


class Bound:
    """The first lines of a file, as many as may be examined here, and whether those were all."""

    def __init__(self, lines: Iterable[bytes | None]) -> None:
        self._lines = lines
        self._seen = 0
        self._whole = True

    def __iter__(self) -> Iterator[bytes | None]:
        size = 0
        for line in self._lines:
            size += len(line or b"")
            if self._seen == MOST_LINES or size > MOST_BYTES:
                self._whole = False
                return
            self._seen += 1
            yield line

    @property
    def told(self) -> dict[str, Any]:
        """How many lines were examined, and whether there are no others."""
        return {"lines": self._seen, "whole": self._whole}


def stored(tx: Tx, training_file: str, validation_file: str | None, context: int) -> dict[str, Any] | None:
    """The report of the pair for a context of so many tokens, if one was made."""
    mine = [_reports.c.training_file == training_file, _reports.c.validation_file == (validation_file or "")]
    mine.append(_reports.c.context_tokens == context)
    found: dict[str, Any] | None = tx.execute(sa.select(_reports.c.report).where(*mine)).scalar_one_or_none()
    return found


def keep(tx: Tx, training_file: str, validation_file: str | None, context: int, made: dict[str, Any]) -> None:
    """Keep the report of the pair; a second one of the same changes nothing."""
    key = {"training_file": training_file, "validation_file": validation_file or "", "context_tokens": context}
    statement = db.insert(tx, _reports).values(**key, report=made, created_at=db.now())
    tx.execute(statement.on_conflict_do_nothing(index_elements=list(key)))


def of_files(
    database: Database,
    store: Store,
    training: tuple[str, str],
    validation: tuple[str, str] | None,
    *,
    context: int,
    max_line_bytes: int,
) -> dict[str, Any]:
    """The report of a training file, beside a validation file where one is given: `(file id, object key)` each.

    `context` is the base model's, in tokens. Made now where it was not made before, about a minute for 100,000 lines.
    Raises `StoreError`.
    """
    key = (training[0], validation[0] if validation else None, context)
    with database.read() as tx:
        made = stored(tx, *key)
    if made is not None:
        return made
    objects = [training[1]] + ([validation[1]] if validation else [])
    with _one_at_a_time:
        with database.read() as tx:
            made = stored(tx, *key)
        if made is None:
            small = sum(store.size(key) for key in objects) <= SMALL_BYTES
            how = examined if small else _elsewhere
            made = how([store.get(key) for key in objects], context=context, max_line_bytes=max_line_bytes)
            with database.transaction() as tx:
                keep(tx, *key, made)
    return made


def examined(contents: Sequence[Iterable[bytes]], *, context: int, max_line_bytes: int) -> dict[str, Any]:
    """The report of a training file's content, and of a validation file's where there is a second one."""
    bounds = [Bound(lines(content, max_line_bytes)) for content in contents]
    made = report(bounds[0], bounds[1] if len(bounds) > 1 else None, context=context).as_dict()
    told = [bound.told for bound in bounds]
    made["summary"]["examined"] = {"training": told[0], "validation": told[1] if len(told) > 1 else None}
    return made


def _elsewhere(contents: Sequence[Iterable[bytes]], *, context: int, max_line_bytes: int) -> dict[str, Any]:
    """As `examined`, in a process of its own: in this one it would hold up, for a minute, all that is answered here."""
    command = [sys.executable, "-m", "rootstock.examiner", str(context), str(max_line_bytes), str(len(contents))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its exit code tells more
            for content in contents:
                send(process.stdin, content)
        answer, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process that makes a data report ended with {process.returncode}")
    made: dict[str, Any] = json.loads(answer)
    return made


def send(pipe: IO[bytes], content: Iterable[bytes]) -> None:
    """Write as much of a content as is examined: pieces with their lengths before them, and an empty one at the end."""
    sent = 0
    for piece in content:
        pipe.write(_LENGTH.pack(len(piece)) + piece if piece else b"")
        sent += len(piece)
        if sent > MOST_BYTES + 2 * MOST_LINES:  # with their line ends
            break
    pipe.write(_LENGTH.pack(0))


def receive(pipe: IO[bytes]) -> Iterator[bytes]:
    """The pieces of the next content. Take them all, or the one behind it cannot be read; raises `EOFError`."""
    while size := _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0]:
        yield _exactly(pipe, size)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def weighed(made: dict[str, Any], blocking: Collection[Kind]) -> dict[str, Any]:
    """The report with the severities that a project's policy gives: what it blocks is at least blocking."""
    findings = [
        {**finding, "severity": str(Severity.BLOCKING)}
        if finding["kind"] in blocking and EXIT_CODES[Severity(finding["severity"])] < EXIT_CODES[Severity.BLOCKING]
        else finding
        for finding in made["findings"]
    ]
    return {**made, "findings": findings}


def told(made: dict[str, Any]) -> tuple[str, dict[str, int]]:
    """One sentence on the report for a job's events, and how many findings there are of each severity."""
    counts = {str(severity): 0 for severity in Severity}
    for finding in made["findings"]:
        counts[finding["severity"]] += 1
    examples = made["summary"]["training"]["examples"]
    counted = [(n, "warnings" if n != 1 and severity == "warning" else severity) for severity, n in counts.items() if n]
    parts = [f"{n:,} {what}" for n, what in counted]
    kinds = ", ".join(sorted({finding["kind"] for finding in made["findings"]}))
    text = f"Data report: {examples:,} examples, {', '.join(parts) or 'nothing found'}"
    return text + (f" ({kinds})" if kinds else ""), counts


def block(made: dict[str, Any], blocking: Collection[Kind]) -> JobFailure | None:
    """Why a job must not train on this data, by the project's policy; `None` where it may."""
    found = next((finding for finding in made["findings"] if _bars(finding, blocking)), None)
    if found is None:
        return None
    named = ", ".join(map(str, found["lines"][:10])) + (" …" if len(found["lines"]) > 10 else "")
    where = f" Lines of the {found['file']} file: {named}." if found["lines"] else ""
    text = f"The job failed because of its data ({found['kind']}). {found['message']}{where} {found['cure']}"
    return JobFailure("data_blocked", text, f"{found['file']}_file")


def _bars(finding: dict[str, Any], blocking: Collection[Kind]) -> bool:
    always = finding["kind"] in ALWAYS_BLOCKING and finding["severity"] == Severity.BLOCKING
    return always or finding["kind"] in blocking


def lines(chunks: Iterable[bytes], max_line_bytes: int) -> Iterator[bytes | None]:
    """The lines of a stored file; `None` for one that is too long. A file that is not UTF-8 has one bad line."""
    splitter = LineSplitter(max_line_bytes)
    try:
        for chunk in chunks:
            for _, line in splitter.feed(chunk):
                yield line
        for _, line in splitter.finish():
            yield line
    except NotUtf8:
        yield b"\xff"
