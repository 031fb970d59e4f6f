"""The evals themselves: made, renamed, listed, deleted. Knows no run's insides and no HTTP."""

from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa

from rootstock import db, ids, paging, tables
from rootstock.db import Tx
from rootstock.errors import InvalidValue, NotFound
from rootstock.evals import runs
from rootstock.evals.records import EvalRecord
from rootstock.paging import Order
from rootstock.records import Page

MAX_LIMIT = 100
"""Of a page: each element holds a schema and its graders."""

OrderBy = Literal["created_at", "updated_at"]


def create(
    tx: Tx,
    project_id: str,
    *,
    name: str,
    data_source_config: dict[str, Any],
    testing_criteria: list[dict[str, Any]],
    metadata: Mapping[str, str] | None,
) -> EvalRecord:
    """A new eval. What it is given was checked."""
    row = tx.execute(
        tables.evals.insert()
        .values(
            id=ids.new("eval_"),
            project_id=project_id,
            name=name,
            data_source_config=data_source_config,
            testing_criteria=testing_criteria,
            metadata=dict(metadata) if metadata else None,
            created_at=db.now(),
            updated_at=db.now(),
        )
        .returning(tables.evals)
    ).one()
    return _record(row)


def get(tx: Tx, project_id: str, eval_id: str, *, lock: bool = False) -> EvalRecord:
    """The project's eval; with `lock` it cannot be deleted before this transaction ends.

    Raises `NotFound`, also for another project's and for one that was deleted.
    """
    row = None
    if ids.is_plain(eval_id):
        query = sa.select(tables.evals).where(*_living(project_id, eval_id))
        row = tx.execute(query.with_for_update(read=True) if lock else query).one_or_none()
    return _found(row, eval_id)


def list_page(
    tx: Tx,
    project_id: str,
    *,
    limit: int = 20,
    after: str | None = None,
    order: Order = "asc",
    order_by: OrderBy = "created_at",
) -> Page[EvalRecord]:
    """A page of the project's evals; `limit` is clamped to 1..100.

    Raises `InvalidValue` (param `after`) for an unknown cursor.
    """
    mine, shown = tables.evals.c.project_id == project_id, tables.evals.c.deleted_at.is_(None)
    limit = max(1, min(limit, MAX_LIMIT))
    if order_by == "created_at":
        return paging.page(
            tx, tables.evals, [mine], shown=[shown], order=order, limit=limit, after=after, build=_record
        )
    place = sa.tuple_(tables.evals.c.updated_at, tables.evals.c.seq)
    where = [mine, shown]
    if after is not None:
        cursor = _cursor(tx, project_id, after)
        where.append(place > cursor if order == "asc" else place < cursor)
    turned = sa.asc if order == "asc" else sa.desc
    in_order = (tables.evals.c.project_id, tables.evals.c.updated_at, tables.evals.c.seq)
    query = sa.select(tables.evals).where(*where).order_by(*map(turned, in_order)).limit(limit + 1)
    rows = tx.execute(query).all()
    return Page(data=[_record(row) for row in rows[:limit]], has_more=len(rows) > limit)


def change(tx: Tx, project_id: str, eval_id: str, **values: Any) -> EvalRecord:
    """Set `name` or `metadata`; criteria and schema never change. Raises `NotFound`."""
    row = None
    if ids.is_plain(eval_id):
        changed = tables.evals.update().where(*_living(project_id, eval_id)).values(**values, updated_at=db.now())
        row = tx.execute(changed.returning(tables.evals)).one_or_none()
    return _found(row, eval_id)


def delete(tx: Tx, project_id: str, eval_id: str) -> None:
    """Forget the eval and all its runs, at once; what was running stops. Raises `NotFound`, also the second time."""
    row = None
    if ids.is_plain(eval_id):
        gone = tables.evals.update().where(*_living(project_id, eval_id))
        emptied: dict[str, Any] = {"data_source_config": {}, "testing_criteria": [], "metadata": None, "name": ""}
        row = tx.execute(gone.values(deleted_at=db.now(), **emptied).returning(tables.evals)).one_or_none()
    _found(row, eval_id)
    runs.delete_all(tx, project_id, eval_id)


def purge(tx: Tx, limit: int, *, grace_seconds: float) -> int:
    """Remove rows of deleted evals that have no runs any more; how many."""
    table, kept = tables.evals, tables.eval_runs
    left = sa.exists().where(kept.c.eval_id == table.c.id)
    old = sa.select(table.c.seq).where(table.c.deleted_at < db.now() - grace_seconds, ~left).limit(limit)
    return tx.execute(table.delete().where(table.c.seq.in_(old))).rowcount


def _cursor(tx: Tx, project_id: str, after: str) -> Any:
    row = None
    if ids.is_plain(after):
        columns = tables.evals.c
        query = sa.select(columns.updated_at, columns.seq).where(columns.project_id == project_id, columns.id == after)
        row = tx.execute(query).one_or_none()
    if row is None:
        raise InvalidValue(f"No element with id '{after[:64]}' to continue after.", param="after")
    return sa.tuple_(sa.literal(row.updated_at, sa.Float(53)), sa.literal(row.seq, sa.BigInteger()))


def _living(project_id: str, eval_id: str) -> list[sa.ColumnElement[bool]]:
    columns = tables.evals.c
    return [columns.project_id == project_id, columns.id == eval_id, columns.deleted_at.is_(None)]


def _found(row: sa.Row[Any] | None, eval_id: str) -> EvalRecord:
    if row is None:
        raise NotFound(f"No eval found with id '{eval_id[:64]}'.", param="eval_id")
    return _record(row)


def _record(row: sa.Row[Any]) -> EvalRecord:
    return EvalRecord(**row._mapping)
