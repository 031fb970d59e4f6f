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
    label: sa.ColumnElement[bool] | None = None,
) -> Page[T]:
    """At most `limit` rows (clamped to 1..10,000) that follow the row whose id is `after`.

    `where` says whose rows these are and binds the cursor too; its first condition equates the column that is indexed
    together with `seq`. `shown` only hides rows from the page, so a client that deletes what it lists can go on from
    a deleted cursor. `label` equates the first column of another table, whose index over it and `seq` is walked
    instead: for rows so few that walking all of their owner's would take long.

    Raises `InvalidValue` (param `after`) when no row within `where` has that id.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    seq = None if after is None else _seq_of(tx, table, where, after)
    turned = sa.desc if order == "desc" else sa.asc
    owner = where[0] if label is None else label
    assert isinstance(owner, sa.BinaryExpression), "the condition is `column == value`"
    walked: sa.Table = owner.left.table
    source = table if walked is table else walked.join(table, walked.c.seq == table.c.seq)
    rest = where if label is not None else where[1:]
    if tx.dialect.name == "postgresql":
        span = _range(owner, walked.c.seq, order, seq)
    else:
        span = [owner, *([] if seq is None else [walked.c.seq > seq if order == "asc" else walked.c.seq < seq])]
    # The owner is the same in all rows; naming it in the order leaves PostgreSQL no way but the index over both.
    in_order = turned(owner.left), turned(walked.c.seq)
    query = sa.select(table).select_from(source).where(*span, *rest, *shown).order_by(*in_order).limit(limit + 1)
    rows = tx.execute(query).all()
    return Page(data=[build(row) for row in rows[:limit]], has_more=len(rows) > limit)


def _range(
    owner: sa.BinaryExpression[bool], seq_column: sa.Column[int], order: Order, seq: int | None
) -> list[sa.ColumnElement[bool]]:
    """`owner` and the cursor as a range of the index over both columns.

    With a plain `owner = x`, PostgreSQL may walk the primary key instead and pass over everybody else's newer rows:
    it takes an owner's rows to be spread evenly over the table, and they never are.
    """
    column, value = owner.left, owner.right
    if seq is None:
        return [column >= value, column <= value]
    edge, cursor = sa.tuple_(column, seq_column), sa.tuple_(value, sa.literal(seq, seq_column.type))
    return [column <= value, edge > cursor] if order == "asc" else [column >= value, edge < cursor]


def _seq_of(tx: Tx, table: sa.Table, where: Sequence[sa.ColumnElement[bool]], after: str) -> int:
    seq = None
    if ids.is_plain(after):
        seq = tx.execute(sa.select(table.c.seq).where(*where, table.c.id == after)).scalar()
    if seq is None:
        raise InvalidValue(f"No element with id '{after[:64]}' to continue after.", param="after")
    return int(seq)
