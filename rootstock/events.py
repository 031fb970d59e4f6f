"""A job's event log: what its owner reads while it runs. Knows nothing about when a job says what.

Each event has a dedupe key within its job, so that a worker which resumes says each thing once.
"""

from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rootstock import db, ids, paging, tables
from rootstock.db import Tx
from rootstock.records import EventRecord, Page

Level = Literal["info", "warn", "error"]
"""Clients map these onto Python's logging names; there is no `warning` and no `debug`."""


def add(
    tx: Tx,
    job_id: str,
    project_id: str,
    message: str,
    *,
    level: Level = "info",
    type: Literal["message", "metrics"] = "message",
    data: dict[str, Any] | None = None,
    dedupe: str | None = None,
) -> None:
    """Append an event, unless this job already has one with the same `dedupe` key.

    A worker calls it in the same transaction as `jobs.renew` (or another fenced write), so that one which lost its
    job cannot speak for it.

    Example: `events.add(tx, job.id, job.project_id, "Step 1/9: …", type="metrics", data={…}, dedupe="step-1")`
    """
    event_id = ids.new("ftevent-")
    insert = sqlite.insert if tx.dialect.name == "sqlite" else postgresql.insert
    tx.execute(
        insert(tables.job_events)
        .values(
            id=event_id,
            job_id=job_id,
            project_id=project_id,
            created_at=db.now(),
            level=level,
            type=type,
            message=message,
            data=data,
            dedupe=dedupe or event_id,
        )
        .on_conflict_do_nothing(index_elements=["job_id", "dedupe"])
    )


def list_page(tx: Tx, job_id: str, *, limit: int = 20, after: str | None = None) -> Page[EventRecord]:
    """A page of the job's events, newest first; `after` continues to older ones. The caller has checked the owner.

    Raises `InvalidValue` (param `after`) for a cursor that is no event of this job.
    """
    return paging.page(
        tx,
        tables.job_events,
        [tables.job_events.c.job_id == job_id],
        order="desc",
        limit=limit,
        after=after,
        build=_record,
    )


def _record(row: sa.Row[Any]) -> EventRecord:
    values = dict(row._mapping)
    del values["project_id"], values["dedupe"]
    return EventRecord(**values)
