"""How much inference each project had: sums by UTC day and model, to which any number of processes add.

Knows no price, no HTTP, and nothing of how tokens are counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rootstock import db, ids, tables
from rootstock.db import Tx
from rootstock.errors import InvalidRequest

MAX_ROWS = 10_000
"""Of one answer."""

MAX_MODEL_CHARS = 256
"""Of a name in a sum; an index cannot hold a text of any length."""

FORGET_SECONDS = 86400.0
"""A writer that was silent for so long is remembered no more."""

Column = Literal["project_id", "day", "model"]

_sums = tables.usage
_writers = tables.usage_writers


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What one sum is about."""

    project_id: str
    day: str
    model: str

    @classmethod
    def today(cls, project_id: str, model: str) -> "Key":
        """The sum of this day, UTC."""
        return cls(project_id, datetime.now(UTC).date().isoformat(), model[:MAX_MODEL_CHARS])


@dataclass(frozen=True, slots=True)
class Amounts:
    """A sum, or what is added to one. Requests that failed are among the requests."""

    requests: int = 0
    failed_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(*(getattr(self, name) + getattr(other, name) for name in COUNTS))


COUNTS = tuple(Amounts.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A sum that was asked for; `None` for what it was summed over."""

    amounts: Amounts
    project_id: str | None = None
    day: str | None = None
    model: str | None = None


def add(tx: Tx, amounts: Mapping[Key, Amounts]) -> None:
    """Add to the sums, each in one statement, so that nothing is lost however many add at once."""
    # In one order: two who add to the same sums wait for each other, and never both.
    rows = [asdict(key) | asdict(amounts[key]) for key in sorted(amounts) if amounts[key] != Amounts()]
    if not rows:
        return
    insert = (postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert)(_sums)
    more = {name: _sums.c[name] + insert.excluded[name] for name in COUNTS}
    one = [_sums.c.project_id, _sums.c.day, _sums.c.model]
    tx.execute(insert.on_conflict_do_update(index_elements=one, set_=more), rows)


def is_first(tx: Tx, writer: str, number: int) -> bool:
    """Whether `writer` has not made its write `number` yet; from the end of this transaction on it has.

    For one whose connection broke at the commit: it repeats the whole transaction under the same number. Numbers
    begin with 1 and rise.
    """
    insert = (postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert)(_writers)
    if number == 1:
        tx.execute(_writers.delete().where(_writers.c.written_at < db.now() - FORGET_SECONDS))
    written = tx.execute(
        insert.values(id=writer, number=number, written_at=db.now())
        .on_conflict_do_update(
            index_elements=[_writers.c.id],
            set_={"number": insert.excluded.number, "written_at": insert.excluded.written_at},
            where=_writers.c.number < insert.excluded.number,
        )
        .returning(_writers.c.id)
    )
    return written.one_or_none() is not None


def read(
    tx: Tx,
    project_id: str | None,
    start: str,
    end: str,
    *,
    by: Sequence[Column] = ("day", "model"),
    model: str | None = None,
) -> list[UsageRow]:
    """The sums of the days `start` to `end`, both included, one for each value of the columns `by` and in their order.

    Of one project or, with `None`, of all. Without columns it is one sum, 0 where there was nothing.

    Raises `InvalidRequest` when there are more than `MAX_ROWS`.
    """
    columns = [_sums.c[name] for name in by]
    totals = [sa.func.coalesce(sa.func.sum(_sums.c[name]), 0).label(name) for name in COUNTS]
    query = sa.select(*columns, *totals).where(_sums.c.day >= start, _sums.c.day <= end)
    if project_id is not None:
        query = query.where(_sums.c.project_id == project_id)
    if model is not None:
        query = query.where(_sums.c.model == model if ids.is_plain(model) else sa.false())
    if columns:
        query = query.group_by(*columns).order_by(*columns)
    rows = tx.execute(query.limit(MAX_ROWS + 1)).all()
    if len(rows) > MAX_ROWS:
        raise InvalidRequest(f"That would be more than {MAX_ROWS} rows: ask for fewer days, one model or a grouping.")
    return [_row(row, by) for row in rows]


def _row(row: sa.Row[Any], by: Sequence[Column]) -> UsageRow:
    found = row._mapping
    # A sum of PostgreSQL's is a decimal number.
    return UsageRow(Amounts(**{name: int(found[name]) for name in COUNTS}), **{name: found[name] for name in by})
