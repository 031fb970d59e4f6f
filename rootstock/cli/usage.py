"""The table of `rootstock usage`: what each project had of each model. Knows the sums and columns of text."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from rootstock import usage
from rootstock.cli.database import opened
from rootstock.settings import Settings
from rootstock.telemetry import escaped
from rootstock.usage import Amounts

HEADINGS = ("project", "model", "requests", "failed", "prompt tokens", "completion tokens")
TEXTS = 2
"""Columns that hold texts; numbers stand at the right."""


def table(settings: Settings, project: str | None, days: int) -> Iterator[str]:
    """The lines: one project or all of them, today and the days before it, with a sum below."""
    today = datetime.now(UTC).date()
    start = today - timedelta(days=days - 1)
    with opened(settings) as database, database.read() as tx:
        found = usage.read(tx, project, start.isoformat(), today.isoformat(), by=("project_id", "model"))
    if not found:
        yield f"no usage from {start} to {today}"
        return
    rows = [(row.project_id or "", row.model or "", *_numbers(row.amounts)) for row in found]
    total = ("total", "", *_numbers(sum((row.amounts for row in found), Amounts())))
    yield from _aligned([HEADINGS, *rows, total])


def _numbers(amounts: Amounts) -> tuple[str, ...]:
    return tuple(f"{getattr(amounts, name):,}" for name in usage.COUNTS)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    shown = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row[:TEXTS], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(row[TEXTS:], widths[TEXTS:], strict=True)]
        yield "  ".join(cells)
