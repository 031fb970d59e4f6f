"""Batches: everything that may happen to one, each as one compare-and-set on the database's clock.

The row is the truth. A worker owns a batch through a lease and a fence, as with jobs: every claim raises the fence,
and a write with a stale one changes nothing and raises `LeaseLost`. Results are rows, so what was answered once is
never asked again. Knows nothing about what is in a line, models, queues or stores.
"""

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, leases, paging, tables, usage, webhooks
from rootstock.db import Tx
from rootstock.errors import BatchNotFound, InvalidRequest, LeaseLost
from rootstock.leases import Leases
from rootstock.records import BatchRecord, BatchResult, BatchStatus, FileRecord, Page

VALIDATING = BatchStatus.VALIDATING
IN_PROGRESS = BatchStatus.IN_PROGRESS
FINALIZING = BatchStatus.FINALIZING
CANCELLING = BatchStatus.CANCELLING
COMPLETED = BatchStatus.COMPLETED
EXPIRED = BatchStatus.EXPIRED
CANCELLED = BatchStatus.CANCELLED
FAILED = BatchStatus.FAILED

MOVES: dict[BatchStatus, frozenset[BatchStatus]] = {
    VALIDATING: frozenset({IN_PROGRESS, CANCELLING, FAILED}),
    IN_PROGRESS: frozenset({FINALIZING, CANCELLING, FAILED}),
    FINALIZING: frozenset({COMPLETED, EXPIRED, CANCELLING, FAILED}),
    CANCELLING: frozenset({CANCELLED}),
    COMPLETED: frozenset(),
    EXPIRED: frozenset(),
    CANCELLED: frozenset(),
    FAILED: frozenset(),
}
"""The one truth about a batch's life."""

WINDOWS = {"24h": 24 * 3600}
"""Completion windows that may be asked for, in seconds."""

MAX_LIMIT = 100
USAGE = ("input_tokens", "cached_tokens", "output_tokens", "total_tokens")
ROWS = 100
"""Rows that are read at once at most."""

LIVING = [str(status) for status in BatchStatus if not status.terminal]

held = Leases(tables.batches, LIVING)
"""Who works on which batch."""


def create(
    tx: Tx,
    *,
    project_id: str,
    endpoint: str,
    source: FileRecord,
    completion_window: str,
    output_expires_after: int | None,
    metadata: dict[str, str] | None,
) -> BatchRecord:
    """Accept a batch; its lines are read by a worker after the answer has gone out."""
    row = tx.execute(
        tables.batches.insert()
        .values(
            id=ids.new("batch_"),
            project_id=project_id,
            endpoint=endpoint,
            input_file=source.id,
            input_object=source.object_key,
            completion_window=completion_window,
            output_expires_after=output_expires_after,
            metadata=metadata or None,
            status=VALIDATING.value,
            fence=0,
            attempts=0,
            not_before=db.now(),
            rings=0,
            total=0,
            completed=0,
            failed=0,
            created_at=db.now(),
            expires_at=db.now() + WINDOWS[completion_window],
        )
        .returning(tables.batches)
    ).one()
    return _record(row)


def get(tx: Tx, project_id: str, batch_id: str) -> BatchRecord:
    """The project's batch.

    Raises `BatchNotFound`, also for another project's.
    """
    batch = find(tx, batch_id)
    if batch is None or batch.project_id != project_id:
        raise BatchNotFound(batch_id[:512])
    return batch


def find(tx: Tx, batch_id: str) -> BatchRecord | None:
    """The batch, whoever's it is: for workers and the sweep, never for a request."""
    if not ids.is_plain(batch_id):
        return None
    row = tx.execute(sa.select(tables.batches).where(tables.batches.c.id == batch_id)).one_or_none()
    return _record(row) if row else None


def list_page(tx: Tx, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[BatchRecord]:
    """A page of the project's batches, newest first; `limit` is clamped to 1..100.

    Raises `InvalidValue` (param `after`) for a cursor that is no batch of this project.
    """
    where = [tables.batches.c.project_id == project_id]
    limit = min(limit, MAX_LIMIT)
    return paging.page(tx, tables.batches, where, order="desc", limit=limit, after=after, build=_record)


def cancel(tx: Tx, project_id: str, batch_id: str) -> BatchRecord:
    """Ask for no more answers; a worker then writes what there is and ends the batch. Again: nothing changes.

    Raises `BatchNotFound`, and `InvalidRequest` when the batch has already ended.
    """
    get(tx, project_id, batch_id)
    moved = _move(tx, batch_id, [VALIDATING, IN_PROGRESS, FINALIZING], CANCELLING, not_before=db.now(), rung_at=None)
    batch = moved or get(tx, project_id, batch_id)
    if batch.status.terminal:
        raise InvalidRequest(f"Batch {batch_id} cannot be cancelled: its status is already '{batch.status}'.")
    return batch


def claim(tx: Tx, *, worker: str, lease_seconds: float) -> BatchRecord | None:
    """Take the batch that has waited longest for a worker, whatever has to be done for it; `None`: there is none."""
    row = held.claim(tx, worker=worker, lease_seconds=lease_seconds)
    return _record(row) if row else None


def another_waits(tx: Tx) -> bool:
    """Whether a worker that let go of its batch would get a different one."""
    return held.waits(tx)


def write(tx: Tx, batch: BatchRecord, results: Sequence[BatchResult] = (), *, lease_seconds: float) -> BatchRecord:
    """Keep the lease and store what became of some lines; the batch as it is then, for its worker to go by.

    A line that has its result already keeps it, so each counts once in the usage of its project. When the window is
    over, the batch is `finalizing` from here on. Raises `LeaseLost`.
    """
    now = _fenced(tx, batch, lease_expires_at=db.now() + lease_seconds)
    stored = _insert(tx, batch.id, results)
    if stored:
        tokens = {name: sum(result.usage.get(name, 0) for result in stored) for name in USAGE}
        now = _fenced(
            tx,
            batch,
            attempts=0,
            completed=now.completed + sum(result.ok for result in stored),
            failed=now.failed + sum(not result.ok for result in stored),
            usage={name: (now.usage or {}).get(name, 0) + count for name, count in tokens.items()},
        )
        usage.add(tx, {usage.Key.today(now.project_id, now.model or ""): _amounts(stored)})
    overdue = [tables.batches.c.expires_at <= db.now()]
    return _move(tx, batch.id, [IN_PROGRESS], FINALIZING, fence=batch.fence, where=overdue) or now


def begin(tx: Tx, batch: BatchRecord, *, model: str, total: int) -> BatchRecord | None:
    """The lines were read and can be put to the model. `None` when the owner has cancelled. Raises `LeaseLost`."""
    _fenced(tx, batch)
    tokens = dict.fromkeys(USAGE, 0)
    return _move(tx, batch.id, [VALIDATING], IN_PROGRESS, fence=batch.fence, model=model, total=total, usage=tokens)


def refuse(tx: Tx, batch: BatchRecord, errors: list[dict[str, Any]]) -> BatchRecord | None:
    """The input cannot be run, for these reasons. `None` when the owner has cancelled. Raises `LeaseLost`."""
    _fenced(tx, batch)
    return _move(tx, batch.id, [VALIDATING, IN_PROGRESS], FAILED, fence=batch.fence, errors=errors)


def finalize(tx: Tx, batch: BatchRecord) -> BatchRecord | None:
    """Every line has its result. `None` when the batch is past that already, or cancelled. Raises `LeaseLost`."""
    _fenced(tx, batch)
    return _move(tx, batch.id, [IN_PROGRESS], FINALIZING, fence=batch.fence)


def end(tx: Tx, batch: BatchRecord, *, output_file: str | None, error_file: str | None) -> BatchRecord | None:
    """The files are stored: completed, expired (lines are missing) or cancelled, as `batch` was when they were written.

    `None` when the owner has cancelled since. Raises `LeaseLost`.
    """
    now = _fenced(tx, batch)
    in_time = COMPLETED if now.completed + now.failed == now.total else EXPIRED
    to = CANCELLED if batch.status is CANCELLING else in_time
    return _move(tx, batch.id, [batch.status], to, fence=batch.fence, output_file=output_file, error_file=error_file)


def hand_back(tx: Tx, batch: BatchRecord) -> None:
    """Let another worker go on, because this one is asked to stop or it is another batch's turn. Raises `LeaseLost`."""
    _fenced(tx, batch, lease_owner=None, lease_expires_at=None, attempts=0, not_before=db.now(), rung_at=None)


def expired_leases(tx: Tx) -> list[BatchRecord]:
    """Batches whose worker has been silent for longer than its lease."""
    return [_record(row) for row in held.expired(tx)]


def requeue(tx: Tx, batch: BatchRecord, max_attempts: int, *, silent: bool = True) -> BatchRecord | None:
    """Give up on a worker that fell silent (or, not `silent`, that met a fault of ours): later, by another one.

    When that keeps happening without a single new result, the batch fails (or is cancelled, if that was asked for).
    `None` when the worker was heard in the meantime, or the batch has moved on.
    """
    if batch.attempts >= max_attempts:
        quiet: list[sa.ColumnElement[bool]] = [tables.batches.c.lease_owner.is_not(None)]
        quiet += [tables.batches.c.lease_expires_at < db.now()] if silent else []
        to = CANCELLED if batch.status is CANCELLING else FAILED
        text = "The batch failed because of an internal error. It may succeed when created again."
        errors = [{"code": "server_error", "message": text, "param": None, "line": None}] if to is FAILED else None
        return _move(tx, batch.id, [batch.status], to, fence=batch.fence, where=quiet, errors=errors)
    row = held.let_go(tx, batch.id, batch.fence, wait_seconds=leases.backoff_seconds(batch.attempts), silent=silent)
    return _record(row) if row else None


def unrung(tx: Tx, older_than_seconds: float) -> list[BatchRecord]:
    """Batches that wait for a worker and whose bell was never rung, or so long ago that it must have been lost."""
    return [_record(row) for row in held.unrung(tx, older_than_seconds)]


def mark_rung(tx: Tx, batch_id: str) -> None:
    """Note that the bell was rung just now, if the batch still waits for a worker."""
    held.mark_rung(tx, batch_id)


def done(tx: Tx, batch_id: str) -> set[int]:
    """The lines that have their result."""
    results = tables.batch_results.c
    return set(tx.scalars(sa.select(results.line).where(results.batch_id == batch_id)))


def results(tx: Tx, batch_id: str, *, ok: bool, after: int) -> list[BatchResult]:
    """Some of the results in the order of their lines, those after line `after`; empty at the end."""
    table = tables.batch_results
    query = sa.select(table.c.line, table.c.ok, table.c.body).where(
        table.c.batch_id == batch_id, table.c.ok.is_(ok), table.c.line > after
    )
    return [BatchResult(row.line, row.ok, row.body) for row in tx.execute(query.order_by(table.c.line).limit(ROWS))]


def ended_with_results(tx: Tx) -> list[str]:
    """Batches that have ended and whose results still lie here."""
    kept = sa.select(tables.batch_results.c.batch_id).distinct()
    query = sa.select(tables.batches.c.id).where(tables.batches.c.id.in_(kept), tables.batches.c.status.not_in(LIVING))
    return list(tx.scalars(query.limit(ROWS)))


def forget_results(tx: Tx, batch_id: str) -> int:
    """Remove some results of a batch that has ended, the files hold them; how many there were to remove."""
    table = tables.batch_results
    first = sa.select(table.c.line).where(table.c.batch_id == batch_id).limit(10 * ROWS)
    return tx.execute(table.delete().where(table.c.batch_id == batch_id, table.c.line.in_(first))).rowcount


def file_id(batch_id: str, kind: str) -> str:
    """The id of a file that a batch writes. Always the same one: a worker that died before is written over."""
    return ids.derived("file-", f"{batch_id}/{kind}")


def _move(
    tx: Tx,
    batch_id: str,
    sources: Collection[BatchStatus],
    to: BatchStatus,
    *,
    fence: int | None = None,
    where: Collection[sa.ColumnElement[bool]] = (),
    **values: Any,
) -> BatchRecord | None:
    """Move the batch from any of `sources`, or return `None` when it is elsewhere by now; two callers never both win.

    The time of the move is noted; on the way into an end the lease is cleared and the webhooks are queued.
    """
    for source in sources:
        if to not in MOVES[source]:
            raise ValueError(f"{source} -> {to} is not in the table of moves")
    table = tables.batches
    guards = [table.c.id == batch_id, table.c.status.in_([source.value for source in sources]), *where]
    if fence is not None:
        guards.append(table.c.fence == fence)
    if to.terminal:
        values |= {"lease_owner": None, "lease_expires_at": None}
    values |= {"status": to.value, f"{to.value}_at": db.now()}
    row = tx.execute(table.update().where(*guards).values(**values).returning(table)).one_or_none()
    if row is None:
        return None
    if to.terminal:
        webhooks.emit(tx, row.project_id, f"batch.{to.value}", batch_id)
    return _record(row)


def _fenced(tx: Tx, batch: BatchRecord, **values: Any) -> BatchRecord:
    row = held.fenced(tx, batch.id, batch.fence, **values)
    if row is None:
        raise LeaseLost(f"Batch {batch.id} is no longer owned by this worker (fence {batch.fence}).")
    return _record(row)


def _insert(tx: Tx, batch_id: str, results: Sequence[BatchResult]) -> list[BatchResult]:
    """Store results; those that were not there yet."""
    if not results:
        return []
    rows = [{"batch_id": batch_id, "line": one.line, "ok": one.ok, "body": one.body} for one in results]
    statement = db.insert(tx, tables.batch_results).values(rows).on_conflict_do_nothing()
    new = set(tx.scalars(statement.returning(tables.batch_results.c.line)))
    return [result for result in results if result.line in new]


def _amounts(results: Sequence[BatchResult]) -> usage.Amounts:
    """What lines that were put to the model add to the usage of their project."""
    asked = [result for result in results if result.asked]
    return usage.Amounts(
        requests=len(asked),
        failed_requests=sum(not result.ok for result in asked),
        prompt_tokens=sum(result.usage.get("input_tokens", 0) for result in asked),
        completion_tokens=sum(result.usage.get("output_tokens", 0) for result in asked),
    )


def _record(row: sa.Row[Any]) -> BatchRecord:
    values = dict(row._mapping)
    return BatchRecord(**values | {"status": BatchStatus(values["status"])})
