"""The data report: every line read once, everything found told with its lines, its gravity and its cure.

Streams: of a line only digests, words and counters are kept (`rows_of`), some kilobytes each. Knows no rows of
files, no stores and no tokenizer; who has one hands over `count_tokens`.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from rootstock.datasets.parse import Fault
from rootstock.quality.alone import each, faults, shares
from rootstock.quality.conflicts import Answers
from rootstock.quality.conflicts import examine as contradictions
from rootstock.quality.findings import File, Findings, Report
from rootstock.quality.formats import enumerated, system_prompts
from rootstock.quality.formats import examine as deviations
from rootstock.quality.kinds import Kind
from rootstock.quality.labels import Labels
from rootstock.quality.labels import examine as balance
from rootstock.quality.sample import Reader
from rootstock.quality.summary import preview, summarise
from rootstock.quality.traits import Row, rows_of
from rootstock.quality.twins import Twins, duplicates, leaks
from rootstock.records import DataFormat

DEFAULT_CONTEXT_TOKENS = 32_768
"""The context that lengths are held against where nobody says what the base model's is."""

CHUNK_LINES = 500
_WAITING = 8  # chunks that may be under way, so that a fast reader does not fill the memory

Line = bytes | None
CountTokens = Callable[[str], int]


def report(
    training: Iterable[Line],
    validation: Iterable[Line] | None = None,
    *,
    count_tokens: CountTokens | None = None,
    context: int | None = None,
    blocking: Collection[Kind] = (),
    pool: Executor | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Report:
    """Examine the lines of a training file, and of its validation file.

    Lines come with or without line ends; `None` stands for one that is too long. `count_tokens` counts a text's tokens;
    without it they are estimated, and the report says so. `context` is the base model's, in tokens. Kinds in `blocking`
    are at least blocking. With a `pool` of processes lines are read there (`count_tokens` must then be picklable).
    `progress` hears how many bytes were read. Bad lines are findings; nothing is raised for them.

    Example: `report(open("train.jsonl", "rb")).exit_code`.
    """
    limit = context or DEFAULT_CONTEXT_TOKENS
    findings = Findings(blocking)
    intern: dict[str, str] = {}
    rows: dict[File, list[Row]] = {}
    numbers: dict[str, Any] = {}
    shown: list[dict[str, Any]] = []
    given: list[tuple[File, Iterable[Line]]] = [("training", training)]
    given += [("validation", validation)] if validation is not None else []
    form: DataFormat | None = None
    for file, lines in given:
        start, numbered = _peek(enumerate(lines, 1))
        form = form or _form(start)
        shown = shown or preview(start, form)
        found = list(_rows(numbered, form, count_tokens, pool, progress, intern))
        faults(findings, file, found)
        rows[file] = [row for row in found if row.fault is None]
        numbers[file] = len(found) - len(rows[file])
    summaries = {
        file: _examine(findings, file, kept, numbers[file], limit, count_tokens is None) for file, kept in rows.items()
    }
    _compare(findings, rows["training"], rows.get("validation", []))
    kept, counts = findings.finish()
    return Report(
        kept,
        {
            **{str(file): numbers for file, numbers in summaries.items()},
            "format": str(form) if form else None,
            "lines": counts,
            "preview": shown,
        },
    )


def read(lines: Iterable[Line]) -> list[Row]:
    """What is kept of each line, in order; blank lines are left out."""
    start, numbered = _peek(enumerate(lines, 1))
    return list(_rows(numbered, _form(start), None, None, lambda _: None, {}))


def _examine(
    findings: Findings, file: File, rows: list[Row], broken: int, context: int, estimated: bool
) -> dict[str, Any]:
    classes = Labels(rows)
    if rows:
        each(findings, file, rows, context, estimated=estimated)
        shares(findings, file, rows, classes)
        deviations(findings, file, rows, classes)
        system_prompts(findings, file, rows)
        balance(findings, file, rows, classes, enumerated(rows))
    return summarise(rows, broken, classes, context, estimated=estimated)


def _compare(findings: Findings, training: list[Row], validation: list[Row]) -> None:
    found = Twins(training, validation)
    agreeing = contradictions(findings, found, Answers(Labels(training), enumerated(training)))
    duplicates(findings, found, agreeing)
    leaks(findings, found)


def _peek(lines: Iterator[tuple[int, Line]]) -> tuple[list[tuple[int, Line]], Iterator[tuple[int, Line]]]:
    start = []
    for number, line in itertools.islice(lines, CHUNK_LINES):
        start.append((number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 and line else line))
    return start, itertools.chain(start, lines)


def _form(start: Iterable[tuple[int, Line]]) -> DataFormat | None:
    """The format of most of the first lines, which the others have to have."""
    forms: Counter[DataFormat] = Counter()
    for _, line in start:
        reader = Reader()
        with contextlib.suppress(Fault):
            if line is not None and reader.read(line) is not None and reader.form is not None:
                forms[reader.form] += 1
    return forms.most_common(1)[0][0] if forms else None


def _rows(
    lines: Iterator[tuple[int, Line]],
    form: DataFormat | None,
    count_tokens: CountTokens | None,
    pool: Executor | None,
    progress: Callable[[int], object],
    intern: dict[str, str],
) -> Iterator[Row]:
    """The rows of all lines in order, their words shared in memory."""
    waiting: list[tuple[int, Future[list[Row]]]] = []

    def taken(found: list[Row]) -> Iterator[Row]:
        for row in found:
            row.words = [intern.setdefault(word, word) for word in row.words]
            row.answer_words = [intern.setdefault(word, word) for word in row.answer_words]
            yield row

    while chunk := list(itertools.islice(lines, CHUNK_LINES)):
        size = sum(len(line or b"") for _, line in chunk)
        if pool is None:
            yield from taken(rows_of(chunk, form, count_tokens))
            progress(size)
            continue
        waiting.append((size, pool.submit(rows_of, chunk, form, count_tokens)))
        if len(waiting) >= _WAITING:
            size, first = waiting.pop(0)
            yield from taken(first.result())
            progress(size)
    for size, later in waiting:
        yield from taken(later.result())
        progress(size)
