"""Runs of evals: everything that may happen to one, each as one compare-and-set on the database's clock.

The row is the truth; a worker owns a run through a lease and a fence (`rootstock.leases`). Items that were graded are
rows, so what was asked and graded once never is again. Knows no item's insides, models, queues or stores.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, leases, paging, tables, usage, webhooks
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, LeaseLost, NotFound
from rootstock.evals import items
from rootstock.evals.records import EvalRecord, ItemStatus, Outcome, RunRecord, RunStatus, Tallies
from rootstock.leases import Leases
from rootstock.paging import Order
from rootstock.records import Page

QUEUED = RunStatus.QUEUED
IN_PROGRESS = RunStatus.IN_PROGRESS
COMPLETED = RunStatus.COMPLETED
FAILED = RunStatus.FAILED
CANCELED = RunStatus.CANCELED

MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    QUEUED: frozenset({IN_PROGRESS, FAILED, CANCELED}),
    IN_PROGRESS: frozenset({COMPLETED, FAILED, CANCELED}),
    COMPLETED: frozenset(),
    FAILED: frozenset(),
    CANCELED: frozenset(),
}
"""The one truth about a run's life."""

EVENTS = {COMPLETED: "eval.run.succeeded", FAILED: "eval.run.failed", CANCELED: "eval.run.canceled"}
"""What is told of each end."""

LIVING = [str(status) for status in RunStatus if not status.terminal]
MAX_LIMIT = 100
OUR_FAULT = "The run failed because of an internal error. It may succeed when created again."

held = Leases(tables.eval_runs, LIVING)
"""Who works on which run."""


def create(
    tx: Tx,
    of: EvalRecord,
    *,
    name: str,
    model: str,
    data_source: dict[str, Any],
    input_object: str | None,
    copies: bool,
    metadata: Mapping[str, str] | None,
) -> RunRecord:
    """Accept a run; a worker does it after the answer has gone out.

    `copies`: its items are to be copied into an object of its own (`folder`), `input_object` is ignored then.
    """
    run_id = ids.new("evalrun_")
    row = tx.execute(
        tables.eval_runs.insert()
        .values(
            id=run_id,
            project_id=of.project_id,
            eval_id=of.id,
            name=name,
            model=model,
            data_source=data_source,
            testing_criteria=of.testing_criteria,
            input_object=f"{folder(run_id)}items.jsonl" if copies else input_object,
            metadata=dict(metadata) if metadata else None,
            status=QUEUED.value,
            fence=0,
            attempts=0,
            not_before=db.now(),
            rings=0,
            **dict.fromkeys(("total", "passed", "failed", "errored"), 0),
            tallies=Tallies().as_dict(),
            created_at=db.now(),
        )
        .returning(tables.eval_runs)
    ).one()
    return _record(row)


def folder(run_id: str) -> str:
    """The prefix of the objects that belong to a run alone."""
    return f"evals/{run_id}/"


def get(tx: Tx, project_id: str, eval_id: str, run_id: str) -> RunRecord:
    """The project's run of this eval. Raises `NotFound`."""
    row = None
    if ids.is_plain(run_id) and ids.is_plain(eval_id):
        row = tx.execute(sa.select(tables.eval_runs).where(*_living(project_id, eval_id, run_id))).one_or_none()
    return _found(row, run_id)


def list_page(
    tx: Tx,
    project_id: str,
    eval_id: str,
    *,
    limit: int = 20,
    after: str | None = None,
    order: Order = "asc",
    status: RunStatus | None = None,
) -> Page[RunRecord]:
    """A page of an eval's runs; `limit` is clamped to 1..100. Raises `InvalidValue` for an unknown cursor."""
    table = tables.eval_runs
    shown = [table.c.deleted_at.is_(None), *([table.c.status == status.value] if status else [])]
    return paging.page(
        tx,
        table,
        [table.c.eval_id == eval_id, table.c.project_id == project_id],
        shown=shown,
        order=order,
        limit=min(limit, MAX_LIMIT),
        after=after,
        build=_record,
    )


def cancel(tx: Tx, project_id: str, eval_id: str, run_id: str) -> RunRecord:
    """End the run now, with what was graded until now; its worker stops at its next write. Again: nothing changes.

    Raises `NotFound`, and `InvalidRequest` when the run has ended otherwise.
    """
    get(tx, project_id, eval_id, run_id)
    run = _move(tx, run_id, [QUEUED, IN_PROGRESS], CANCELED) or get(tx, project_id, eval_id, run_id)
    if run.status is not CANCELED:
        raise InvalidRequest(f"Run {run_id} cannot be canceled: its status is already '{run.status}'.")
    return run


def delete(tx: Tx, project_id: str, eval_id: str, run_id: str) -> None:
    """Forget the run and its items, at once; it stops if it is at work. Raises `NotFound`, also the second time."""
    get(tx, project_id, eval_id, run_id)
    _forget(tx, [tables.eval_runs.c.id == run_id])


def delete_all(tx: Tx, project_id: str, eval_id: str) -> None:
    """Forget all runs of an eval."""
    _forget(tx, [tables.eval_runs.c.project_id == project_id, tables.eval_runs.c.eval_id == eval_id])


def claim(tx: Tx, *, worker: str, lease_seconds: float) -> RunRecord | None:
    """Take the run that has waited longest for a worker; `None`: there is none."""
    row = held.claim(tx, worker=worker, lease_seconds=lease_seconds)
    return _record(row) if row else None


def another_waits(tx: Tx) -> bool:
    """Whether a worker that asked would get a run."""
    return held.waits(tx)


def write(tx: Tx, run: RunRecord, outcomes: Sequence[Outcome] = (), *, lease_seconds: float) -> RunRecord:
    """Keep the lease and store what became of some items; the run as it is then.

    An item that has its result already keeps it, so each counts once, also in the usage. Raises `LeaseLost`.
    """
    now = _fenced(tx, run, lease_expires_at=db.now() + lease_seconds)
    stored = items.insert(tx, run.id, outcomes)
    if not stored:
        return now
    tallies = Tallies(**now.tallies)
    for outcome in stored:
        tallies.add(outcome)
    count = {status: sum(outcome.status is status for outcome in stored) for status in ItemStatus}
    usage.add(tx, _amounts(now.project_id, stored))
    return _fenced(
        tx,
        run,
        attempts=0,
        passed=now.passed + count[ItemStatus.PASS],
        failed=now.failed + count[ItemStatus.FAIL],
        errored=now.errored + count[ItemStatus.ERROR],
        tallies=tallies.as_dict(),
    )


def begin(tx: Tx, run: RunRecord, *, total: int) -> RunRecord | None:
    """The items were read and can be graded. `None` when the owner has ended it. Raises `LeaseLost`."""
    _fenced(tx, run)
    return _move(tx, run.id, [QUEUED], IN_PROGRESS, fence=run.fence, total=total, started_at=db.now())


def complete(tx: Tx, run: RunRecord) -> RunRecord | None:
    """Every item has its result. `None` when the owner has ended it. Raises `LeaseLost`."""
    _fenced(tx, run)
    return _move(tx, run.id, [IN_PROGRESS], COMPLETED, fence=run.fence)


def fail(tx: Tx, run: RunRecord, code: str, message: str) -> RunRecord | None:
    """The run cannot be done, for this reason. `None` when the owner has ended it. Raises `LeaseLost`."""
    _fenced(tx, run)
    error = {"code": code, "message": message}
    return _move(tx, run.id, [QUEUED, IN_PROGRESS], FAILED, fence=run.fence, error=error)


def hand_back(tx: Tx, run: RunRecord) -> None:
    """Let another worker go on: this one is asked to stop, or other work waits. Raises `LeaseLost`."""
    free = {"lease_owner": None, "lease_expires_at": None, "rung_at": None}
    _fenced(tx, run, **free, attempts=0, not_before=db.now())


def requeue(tx: Tx, run: RunRecord, max_attempts: int, *, silent: bool = True) -> RunRecord | None:
    """Give up on a worker that fell silent (or, not `silent`, that met a fault of ours): later, by another one.

    When that keeps happening without a single new result, the run fails. `None` when the worker was heard meanwhile.
    """
    if run.attempts >= max_attempts:
        quiet: list[sa.ColumnElement[bool]] = [tables.eval_runs.c.lease_owner.is_not(None)]
        quiet += [tables.eval_runs.c.lease_expires_at < db.now()] if silent else []
        error = {"code": "server_error", "message": OUR_FAULT}
        return _move(tx, run.id, [run.status], FAILED, fence=run.fence, where=quiet, error=error)
    row = held.let_go(tx, run.id, run.fence, wait_seconds=leases.backoff_seconds(run.attempts), silent=silent)
    return _record(row) if row else None


def expired_leases(tx: Tx) -> list[RunRecord]:
    """Runs whose worker has been silent for longer than its lease."""
    return [_record(row) for row in held.expired(tx)]


def unrung(tx: Tx, older_than_seconds: float) -> list[RunRecord]:
    """Runs that wait for a worker and whose bell must have been lost."""
    return [_record(row) for row in held.unrung(tx, older_than_seconds)]


def with_copies(tx: Tx, limit: int, *, grace_seconds: float) -> list[RunRecord]:
    """Runs that ended a while ago and still have an object of their own."""
    table = tables.eval_runs
    old = [table.c.ended_at < db.now() - grace_seconds, table.c.input_object.startswith("evals/")]
    return [_record(row) for row in tx.execute(sa.select(table).where(*old).order_by(table.c.seq).limit(limit))]


def mark_copy_gone(tx: Tx, run_id: str) -> None:
    """Record that a run's own object is gone from the store."""
    tx.execute(tables.eval_runs.update().where(tables.eval_runs.c.id == run_id).values(input_object=None))


def purge(tx: Tx, limit: int, *, grace_seconds: float) -> int:
    """Remove rows of deleted runs of which nothing else is left; how many.

    They stay for a while, emptied, so that a client which deletes what it lists can go on from a deleted cursor.
    """
    table, kept = tables.eval_runs, tables.eval_items
    left = sa.exists().where(kept.c.run_id == table.c.id)
    own = sa.func.coalesce(table.c.input_object, "").startswith("evals/")
    old = sa.select(table.c.seq).where(table.c.deleted_at < db.now() - grace_seconds, ~own, ~left).limit(limit)
    return tx.execute(table.delete().where(table.c.seq.in_(old))).rowcount


def _forget(tx: Tx, which: list[sa.ColumnElement[bool]]) -> None:
    table = tables.eval_runs
    mine = [*which, table.c.deleted_at.is_(None)]
    for run_id in tx.scalars(sa.select(table.c.id).where(*mine, table.c.status.in_(LIVING))).all():
        _move(tx, run_id, [QUEUED, IN_PROGRESS], CANCELED)
    emptied: dict[str, Any] = {"data_source": {}, "testing_criteria": [], "metadata": None, "error": None, "name": ""}
    tx.execute(table.update().where(*mine).values(deleted_at=db.now(), **emptied))


def _move(
    tx: Tx,
    run_id: str,
    sources: Collection[RunStatus],
    to: RunStatus,
    *,
    fence: int | None = None,
    where: Collection[sa.ColumnElement[bool]] = (),
    **values: Any,
) -> RunRecord | None:
    """Move the run from any of `sources`, or return `None` when it is elsewhere by now; two callers never both win."""
    for source in sources:
        if to not in MOVES[source]:
            raise ValueError(f"{source} -> {to} is not in the table of moves")
    table = tables.eval_runs
    guards = [table.c.id == run_id, table.c.status.in_([source.value for source in sources]), *where]
    guards += [] if fence is None else [table.c.fence == fence]
    if to.terminal:
        values |= {"lease_owner": None, "lease_expires_at": None, "ended_at": db.now()}
    row = tx.execute(table.update().where(*guards).values(values | {"status": to.value}).returning(table)).one_or_none()
    if row is None:
        return None
    if to.terminal:
        webhooks.emit(tx, row.project_id, EVENTS[to], run_id)
    return _record(row)


def _fenced(tx: Tx, run: RunRecord, **values: Any) -> RunRecord:
    row = held.fenced(tx, run.id, run.fence, **values)
    if row is None:
        raise LeaseLost(f"Run {run.id} is no longer owned by this worker (fence {run.fence}).")
    return _record(row)


def _amounts(project_id: str, outcomes: Sequence[Outcome]) -> dict[usage.Key, usage.Amounts]:
    sums: dict[usage.Key, usage.Amounts] = {}
    for outcome in outcomes:
        for model, asked in outcome.asked.items():
            key = usage.Key.today(project_id, model)
            sums[key] = sums.get(key, usage.Amounts()) + usage.Amounts(
                requests=asked["invocation_count"],
                failed_requests=asked["failed_count"],
                prompt_tokens=asked["prompt_tokens"],
                completion_tokens=asked["completion_tokens"],
            )
    return sums


def _living(project_id: str, eval_id: str, run_id: str) -> list[sa.ColumnElement[bool]]:
    columns = tables.eval_runs.c
    mine = [columns.project_id == project_id, columns.eval_id == eval_id, columns.id == run_id]
    return [*mine, columns.deleted_at.is_(None)]


def _found(row: sa.Row[Any] | None, run_id: str) -> RunRecord:
    if row is None:
        raise NotFound(f"No eval run found with id '{run_id[:64]}'.", param="run_id")
    return _record(row)


def _record(row: sa.Row[Any]) -> RunRecord:
    values = dict(row._mapping)
    return RunRecord(**values | {"status": RunStatus(values["status"])})
