"""How a job's row changes: the table of allowed moves, and the two guarded statements that everything else uses.

A status changes only in `move`, one compare-and-set on the database's clock; a worker's other writes only through
`fenced`. Knows nothing about why a job moves; that is `rootstock.jobs`.
"""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from rootstock import db, tables, webhooks
from rootstock.db import Tx
from rootstock.errors import LeaseLost
from rootstock.records import JobRecord, JobStatus

VALIDATING = JobStatus.VALIDATING_FILES
QUEUED = JobStatus.QUEUED
RUNNING = JobStatus.RUNNING
PAUSED = JobStatus.PAUSED
FINALIZING = JobStatus.FINALIZING
SUCCEEDED = JobStatus.SUCCEEDED
FAILED = JobStatus.FAILED
CANCELLED = JobStatus.CANCELLED

MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    VALIDATING: frozenset({QUEUED, FAILED, CANCELLED}),
    QUEUED: frozenset({RUNNING, PAUSED, FAILED, CANCELLED}),
    RUNNING: frozenset({FINALIZING, QUEUED, PAUSED, FAILED, CANCELLED}),
    PAUSED: frozenset({QUEUED, CANCELLED}),
    FINALIZING: frozenset({SUCCEEDED, FAILED, CANCELLED}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}
"""The one truth about a job's life."""


def move(
    tx: Tx,
    job_id: str,
    sources: Collection[JobStatus],
    to: JobStatus,
    *,
    held: int | None = None,
    where: Collection[sa.ColumnElement[bool]] = (),
    **values: Any,
) -> JobRecord | None:
    """Move the job from any of `sources`, or return `None` when it is elsewhere by now; two callers never both win.

    `held` is the fence of a worker that must still own the job. The lease, the owner's wish and what is only shown of
    a running job are cleared on the way out of running, `finished_at` is set and the webhooks are queued on the way
    into an end.
    """
    for source in sources:
        if to not in MOVES[source]:
            raise ValueError(f"{source} -> {to} is not in the table of moves")
    guards = [tables.jobs.c.id == job_id, tables.jobs.c.status.in_([source.value for source in sources]), *where]
    if held is not None:
        guards.append(tables.jobs.c.fence == held)
    if to is not RUNNING:
        values = {"want": "run", "lease_owner": None, "lease_expires_at": None, "estimated_finish": None} | values
    if to.terminal:
        values["finished_at"] = db.now()
    row = tx.execute(
        tables.jobs.update().where(*guards).values(status=to.value, **values).returning(tables.jobs)
    ).one_or_none()
    if row is None:
        return None
    if to.terminal:
        webhooks.emit(tx, row.project_id, f"fine_tuning.job.{to.value}", job_id)
    return record(row)


def fenced(tx: Tx, job_id: str, fence: int, **values: Any) -> JobRecord:
    """Write to a job that this worker still owns; on PostgreSQL the row then stays locked until the commit.

    Raises `LeaseLost` when it does not own it any more.
    """
    row = tx.execute(
        tables.jobs.update()
        .where(tables.jobs.c.id == job_id, tables.jobs.c.fence == fence, tables.jobs.c.status == RUNNING.value)
        .values(**values)
        .returning(tables.jobs)
    ).one_or_none()
    if row is None:
        raise lost(job_id, fence)
    return record(row)


def lost(job_id: str, fence: int) -> LeaseLost:
    """What a worker gets that writes with a stale fence."""
    return LeaseLost(f"Job {job_id} is no longer owned by this worker (fence {fence}).")


def begin_attempt(tx: Tx, job: JobRecord, worker: str) -> None:
    """Note who works on the job under its present fence."""
    tx.execute(tables.job_attempts.insert().values(job_id=job.id, fence=job.fence, worker=worker, started_at=db.now()))


def end_attempt(tx: Tx, job_id: str, outcome: str) -> None:
    """Note how the open attempt ended, if there is one."""
    attempts = tables.job_attempts
    tx.execute(
        attempts.update()
        .where(attempts.c.job_id == job_id, attempts.c.ended_at.is_(None))
        .values(ended_at=db.now(), outcome=outcome)
    )


def record(row: sa.Row[Any]) -> JobRecord:
    """The row as a value."""
    values = dict(row._mapping)
    return JobRecord(**values | {"status": JobStatus(values["status"])})
