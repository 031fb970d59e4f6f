"""Chat completions that their clients asked us to keep: stored with the question, labelled, forgotten after a month.

Knows nothing about HTTP or about how answers are made.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, labels, paging, tables
from rootstock.db import Tx
from rootstock.errors import NotFound
from rootstock.paging import Order
from rootstock.records import CompletionRecord, Page

MAX_LIMIT = 100
"""Of a page: each element holds a whole conversation."""

KEPT_SECONDS = 30 * 86400.0

GRACE_SECONDS = 86400.0
"""A deleted row stays this long, emptied, so that a client which deletes what it lists can go on listing."""


def keep(
    tx: Tx,
    project_id: str,
    *,
    request_id: str,
    request: Mapping[str, Any],
    response: Mapping[str, Any],
    metadata: Mapping[str, str] | None,
) -> None:
    """Keep an answer under its own id (`response["id"]`); one that is kept already stays as it is."""
    tx.execute(
        db.insert(tx, tables.stored_completions)
        .values(
            id=response["id"],
            project_id=project_id,
            model=response["model"],
            request_id=request_id,
            request=dict(request),
            response=dict(response),
            metadata=dict(metadata) if metadata else None,
            created_at=db.now(),
            expires_at=db.now() + KEPT_SECONDS,
        )
        .on_conflict_do_nothing()
    )


def get(tx: Tx, project_id: str, completion_id: str) -> CompletionRecord:
    """The project's stored completion. Raises `NotFound` when it was never stored, is deleted, or somebody else's."""
    row = None
    if ids.is_plain(completion_id):
        row = tx.execute(sa.select(tables.stored_completions).where(*_living(project_id, completion_id))).one_or_none()
    return _found(row, completion_id)


def list_page(
    tx: Tx,
    project_id: str,
    *,
    limit: int = 20,
    after: str | None = None,
    order: Order = "asc",
    model: str | None = None,
    metadata: Mapping[str, str] | None = None,
    without_metadata: bool = False,
    created_after: float | None = None,
    created_before: float | None = None,
) -> Page[CompletionRecord]:
    """A page of the stored completions that carry all pairs of `metadata`; `limit` is clamped to 1..100.

    `created_after` and `created_before` are Unix seconds, both included.

    Raises `InvalidValue` (param `after`) for an unknown cursor.
    """
    stored = tables.stored_completions
    shown: list[sa.ColumnElement[bool]] = [stored.c.expires_at > db.now()]
    shown += labels.carrying(tx, stored.c.metadata, metadata or {})
    if without_metadata:
        shown.append(stored.c.metadata.is_(None))
    if created_after is not None:
        shown.append(stored.c.created_at >= created_after)
    if created_before is not None:
        shown.append(stored.c.created_at <= created_before)
    if model is not None:
        shown.append(stored.c.model == model if ids.is_plain(model) else sa.false())
    return paging.page(
        tx,
        stored,
        [stored.c.project_id == project_id],
        shown=shown,
        order=order,
        limit=min(limit, MAX_LIMIT),
        after=after,
        build=_record,
    )


def relabel(tx: Tx, project_id: str, completion_id: str, metadata: Mapping[str, str] | None) -> CompletionRecord:
    """Replace the metadata; nothing else of a stored completion ever changes. Raises `NotFound`."""
    row = None
    if ids.is_plain(completion_id):
        row = tx.execute(
            tables.stored_completions.update()
            .where(*_living(project_id, completion_id))
            .values(metadata=dict(metadata) if metadata else None)
            .returning(tables.stored_completions)
        ).one_or_none()
    return _found(row, completion_id)


def delete(tx: Tx, project_id: str, completion_id: str) -> None:
    """Forget what was said, at once. Raises `NotFound`, also on the second call."""
    get(tx, project_id, completion_id)
    tx.execute(
        tables.stored_completions.update()
        .where(*_living(project_id, completion_id))
        .values(expires_at=db.now(), request={}, response={}, metadata=None)
    )


def purge(tx: Tx, limit: int) -> int:
    """Remove what expired or was deleted; how many rows."""
    stored = tables.stored_completions
    old = sa.select(stored.c.seq).where(stored.c.expires_at < db.now() - GRACE_SECONDS).limit(limit)
    return tx.execute(stored.delete().where(stored.c.seq.in_(old))).rowcount


def _living(project_id: str, completion_id: str) -> list[sa.ColumnElement[bool]]:
    stored = tables.stored_completions
    return [stored.c.project_id == project_id, stored.c.id == completion_id, stored.c.expires_at > db.now()]


def _found(row: sa.Row[Any] | None, completion_id: str) -> CompletionRecord:
    if row is None:
        raise NotFound(f"No stored chat completion found with id '{completion_id[:64]}'.", param="completion_id")
    return _record(row)


def _record(row: sa.Row[Any]) -> CompletionRecord:
    return CompletionRecord(**row._mapping)
