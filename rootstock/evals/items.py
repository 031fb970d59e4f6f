"""The output items of a run: stored once each, listed, forgotten with their run. Knows no grader."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, paging, tables
from rootstock.db import Tx
from rootstock.errors import NotFound
from rootstock.evals.records import ItemRecord, ItemStatus, Outcome
from rootstock.paging import Order
from rootstock.records import Page

MAX_LIMIT = 100


def insert(tx: Tx, run_id: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Store what became of items; those that had no result yet."""
    if not outcomes:
        return []
    table = tables.eval_items
    rows = [
        {
            "id": ids.new("outputitem_"),
            "run_id": run_id,
            "number": outcome.number,
            "status": outcome.status.value,
            "datasource_item": outcome.datasource_item,
            "results": outcome.results,
            "sample": outcome.sample,
            "created_at": db.clock(tx),
        }
        for outcome in outcomes
    ]
    statement = db.insert(tx, table).values(rows).on_conflict_do_nothing()
    new = set(tx.scalars(statement.returning(table.c.number)))
    return [outcome for outcome in outcomes if outcome.number in new]


def done(tx: Tx, run_id: str) -> set[int]:
    """The numbers of the items that have their result."""
    return set(tx.scalars(sa.select(tables.eval_items.c.number).where(tables.eval_items.c.run_id == run_id)))


def get(tx: Tx, run_id: str, item_id: str) -> ItemRecord:
    """One item of a run. Raises `NotFound`."""
    row = None
    if ids.is_plain(item_id):
        columns = tables.eval_items.c
        query = sa.select(tables.eval_items).where(columns.run_id == run_id, columns.id == item_id)
        row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"No output item found with id '{item_id[:64]}'.", param="output_item_id")
    return _record(row)


def list_page(
    tx: Tx,
    run_id: str,
    *,
    limit: int = 20,
    after: str | None = None,
    order: Order = "asc",
    status: ItemStatus | None = None,
) -> Page[ItemRecord]:
    """A page of a run's items, in the order in which they were finished; `limit` is clamped to 1..100.

    Raises `InvalidValue` (param `after`) for an unknown cursor.
    """
    table = tables.eval_items
    return paging.page(
        tx,
        table,
        [table.c.run_id == run_id],
        shown=[table.c.status == status.value] if status else [],
        order=order,
        limit=min(limit, MAX_LIMIT),
        after=after,
        build=_record,
    )


def purge(tx: Tx, limit: int) -> int:
    """Remove items of runs that were deleted; how many."""
    table, runs = tables.eval_items, tables.eval_runs
    gone = sa.select(table.c.seq).join(runs, runs.c.id == table.c.run_id).where(runs.c.deleted_at.is_not(None))
    return tx.execute(table.delete().where(table.c.seq.in_(gone.limit(limit)))).rowcount


def _record(row: sa.Row[Any]) -> ItemRecord:
    values = dict(row._mapping)
    return ItemRecord(**values | {"status": ItemStatus(values["status"])})
