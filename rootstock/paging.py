"""One way to read a page of rows: by insertion order, after a cursor. Knows nothing about what the rows mean."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from rootstock import ids
from rootstock.db import Tx
from rootstock.errors import InvalidValue
from rootstock.records import Page

T = TypeVar("T")

Order = Literal["asc", "desc"]

MAX_LIMIT = 10_000


def page(
    tx: Tx,
    table: sa.Table,
    where: Sequence[sa.ColumnElement[bool]],
    *,
    order: Order,
    limit: int,
    after: str | None,
    build: Callable[[sa.Row[Any]], T],
    shown: Sequence[sa.ColumnElement[bool]] = (),
) -> Page[T]:
    """At most `limit` rows (clamped to 1..10,000) that follow the row whose id is `after`.

    `where` says whose rows these are and binds the cursor too. `shown` only hides rows from the page, so a client
    that deletes what it lists can go on from a deleted cursor.

    Raises `InvalidValue` (param `after`) when no row within `where` has that id.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    query = sa.select(table).where(*where, *shown)
    if after is not None:
        seq = _seq_of(tx, table, where, after)
        query = query.where(table.c.seq > seq if order == "asc" else table.c.seq < seq)
    query = query.order_by(table.c.seq.asc() if order == "asc" else table.c.seq.desc()).limit(limit + 1)
    rows = tx.execute(query).all()
    return Page(data=[build(row) for row in rows[:limit]], has_more=len(rows) > limit)


def _seq_of(tx: Tx, table: sa.Table, where: Sequence[sa.ColumnElement[bool]], after: str) -> int:
    seq = None
    if ids.is_plain(after):
        seq = tx.execute(sa.select(table.c.seq).where(*where, table.c.id == after)).scalar()
    if seq is None:
        raise InvalidValue(f"No element with id '{after[:64]}' to continue after.", param="after")
    return int(seq)
