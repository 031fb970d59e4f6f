"""Fine-tuning jobs: everything that may happen to one, each as one compare-and-set on the database's clock.

The row is the truth; queues and processes may vanish at any time. A worker owns a job through a lease and a fence:
every claim raises the fence, every write of a worker carries it, and a write with a stale fence changes nothing and
raises `LeaseLost`. What stops a job without ending it is in `rootstock.interruptions`. Knows nothing about files' rows,
models, queues or training.
"""

import secrets
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from rootstock import checkpoints, db, events, ids, labels, paging, tables
from rootstock.checkpoints import add as add_checkpoint
from rootstock.checkpoints import last as last_checkpoint
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, JobFailure, JobNotFound
from rootstock.moves import (
    CANCELLED,
    FAILED,
    FINALIZING,
    MOVES,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    VALIDATING,
    begin_attempt,
    end_attempt,
    fenced,
    lost,
    move,
    record,
)
from rootstock.records import CheckpointRecord, FileRecord, JobRecord, JobStatus, Page, Start

__all__ = ["MOVES", "add_checkpoint", "last_checkpoint"]

UNPUBLISHED: dict[str, Any] = {"trained_tokens": None, "result_file": None}
"""What a job that did not succeed must not show, although it may have got as far as finalizing."""

BATCH = 100
"""Rows that one pass of the sweep takes at most."""


def create(  # noqa: PLR0913 (one argument per column that a request decides)
    tx: Tx,
    *,
    project_id: str,
    model: str,
    base: str,
    training: FileRecord,
    validation: FileRecord | None,
    suffix: str | None,
    seed: int | None,
    method: dict[str, Any],
    hyperparameters: dict[str, Any],
    integrations: list[Any],
    metadata: dict[str, str] | None,
    start: Start | None = None,
    rootstock: dict[str, Any] | None = None,
    job_id: str | None = None,
) -> JobRecord:
    """Accept a job, to be judged by its files' recorded checks after the answer has gone out."""
    row = tx.execute(
        tables.jobs.insert()
        .values(
            id=job_id or ids.new("ftjob-"),
            project_id=project_id,
            status=VALIDATING.value,
            want="run",
            fence=0,
            attempts=0,
            not_before=db.now(),
            rings=0,
            model=model,
            base=base,
            training_file=training.id,
            validation_file=validation.id if validation else None,
            training_object=training.object_key,
            validation_object=validation.object_key if validation else None,
            suffix=suffix,
            seed=secrets.randbelow(2**31) if seed is None else seed,
            method=method,
            hyperparameters=hyperparameters,
            integrations=integrations,
            metadata=metadata or None,
            created_at=db.now(),
            progress_step=0,
            start_model=start.model if start else None,
            start_adapter=start.adapter if start else None,
            rootstock=rootstock,
        )
        .returning(tables.jobs)
    ).one()
    job = record(row)
    labels.attach(tx, tables.job_labels, project_id, job.seq, job.metadata or {})
    say(tx, job, f"Created fine-tuning job: {job.id}", dedupe="created")
    files = f"Validating training file: {job.training_file}"
    if job.validation_file:
        files += f" and validation file: {job.validation_file}"
    if "replay" in job.files:
        files += f" and replay file: {job.files['replay']}"
    say(tx, job, files, dedupe="validating")
    return job


def get(tx: Tx, project_id: str, job_id: str) -> JobRecord:
    """The project's job.

    Raises `JobNotFound`, also for another project's.
    """
    job = find(tx, job_id)
    if job is None or job.project_id != project_id:
        raise JobNotFound(job_id)
    return job


def find(tx: Tx, job_id: str) -> JobRecord | None:
    """The job, whoever's it is: for workers and the sweep, never for a request."""
    if not ids.is_plain(job_id):
        return None
    row = tx.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job_id)).one_or_none()
    return record(row) if row else None


def list_page(
    tx: Tx,
    project_id: str,
    *,
    limit: int = 20,
    after: str | None = None,
    metadata: dict[str, str] | None = None,
    without_metadata: bool = False,
) -> Page[JobRecord]:
    """A page of the project's jobs, newest first; `metadata` keeps those that carry all of these pairs.

    Raises `InvalidValue` (param `after`) for a cursor that is no job of this project.
    """
    carried = tables.job_labels
    wanted = labels.carried(tx, carried, project_id, metadata or {}, without=without_metadata)
    return paging.page(
        tx,
        tables.jobs,
        [tables.jobs.c.project_id == project_id],
        label=carried.c.label == wanted[0] if wanted else None,
        shown=[labels.also(carried, label, tables.jobs.c.seq) for label in wanted[1:]],
        order="desc",
        limit=limit,
        after=after,
        build=record,
    )


def cancel(tx: Tx, project_id: str, job_id: str) -> JobRecord:
    """End a job at its owner's wish, at once; a trainer that works on it hears `LeaseLost` at its next write.

    Raises `JobNotFound`, and `InvalidRequest` when the job has already ended.
    """
    get(tx, project_id, job_id)
    living = [status for status in JobStatus if not status.terminal]
    job = move(tx, job_id, living, CANCELLED, want="cancel", fence=tables.jobs.c.fence + 1, **UNPUBLISHED)
    if job is None:
        status = get(tx, project_id, job_id).status
        raise InvalidRequest(f"Job {job_id} cannot be cancelled: its status is already '{status.wire}'.")
    end_attempt(tx, job_id, "cancelled")
    checkpoints.take_adapter(tx, job_id, job.adapter_id)
    say(tx, job, "Job cancelled", dedupe="cancelled")
    return job


def say(tx: Tx, job: JobRecord, message: str, *, dedupe: str, level: events.Level = "info") -> None:
    """Write into the job's event log; once per `dedupe` key."""
    events.add(tx, job.id, job.project_id, message, level=level, dedupe=dedupe)


def to_queued(tx: Tx, job_id: str) -> bool:
    """The files are good: trainers may claim the job. False when it is no longer waiting for that."""
    job = move(tx, job_id, [VALIDATING], QUEUED)
    if job is not None:
        say(tx, job, "Files validated, moving job to queued state", dedupe="queued")
    return job is not None


def fail_unclaimed(tx: Tx, job_id: str, failure: JobFailure, *, from_status: JobStatus) -> bool:
    """End a job that no worker owns (bad files, an adapter that never answers). False when it has moved on."""
    if from_status is RUNNING:
        raise ValueError("a running job belongs to its worker: use fail() with the fence")
    return move_to_failed(tx, job_id, failure, from_status) is not None


def claim(
    tx: Tx,
    *,
    base: str,
    worker: str,
    lease_seconds: float,
    project_id: str | None = None,
    adapter_type: str | None = None,
    untried: bool = False,
) -> JobRecord | None:
    """Take the next job of this base, or `None` when there is nothing to do.

    Projects take turns (the one whose last start is longest ago goes first); within a project the oldest job goes
    first. With `project_id` only that project's, with `adapter_type` only those that train this; `untried` leaves out
    jobs whose worker has died before, which belong alone. The record's `fence` is what every later write must carry.
    """
    # For each queued job anew: one look into the index, where grouping would read every job there ever was.
    others = tables.jobs.alias("others")
    turn = sa.select(sa.func.max(others.c.started_at)).where(others.c.project_id == tables.jobs.c.project_id)
    trains = sa.func.coalesce(tables.jobs.c.rootstock["adapter"]["type"].as_string(), "lora")
    # SKIP LOCKED lets PostgreSQL's workers pick different rows at once; on SQLite writers are in line already.
    job_id = tx.scalar(
        sa.select(tables.jobs.c.id)
        .where(tables.jobs.c.status == QUEUED.value, tables.jobs.c.base == base, tables.jobs.c.not_before <= db.now())
        .where(*([tables.jobs.c.project_id == project_id] if project_id else []))
        .where(*([trains == adapter_type] if adapter_type else []))
        .where(*([tables.jobs.c.attempts == 0] if untried else []))
        .order_by(sa.func.coalesce(turn.scalar_subquery(), 0.0), tables.jobs.c.seq)
        .limit(1)
        .with_for_update(of=tables.jobs, skip_locked=True)
    )
    if job_id is None:
        return None
    job = move(
        tx,
        job_id,
        [QUEUED],
        RUNNING,
        fence=tables.jobs.c.fence + 1,
        attempts=tables.jobs.c.attempts + 1,
        lease_owner=worker,
        lease_expires_at=db.now() + lease_seconds,
        started_at=sa.func.coalesce(tables.jobs.c.started_at, db.now()),
        progress_at=db.now(),
    )
    if job is None:
        return None
    begin_attempt(tx, job, worker)
    say(tx, job, "Fine-tuning job started", dedupe="started")
    return job


def renew(
    tx: Tx,
    job_id: str,
    fence: int,
    *,
    lease_seconds: float,
    step: int | None = None,
    total_steps: int | None = None,
    estimated_finish: float | None = None,
) -> str:
    """Keep the lease, tell how far training is, and hear what the owner wants (`JobRecord.want`).

    Raises `LeaseLost` when the job was cancelled or given to another worker: stop at once.
    """
    values: dict[str, Any] = {"lease_expires_at": db.now() + lease_seconds}
    if step is not None:
        further = tables.jobs.c.progress_step < step
        values["progress_at"] = sa.case((further, db.now()), else_=tables.jobs.c.progress_at)
        values["progress_step"] = sa.case((further, step), else_=tables.jobs.c.progress_step)
    if total_steps is not None:
        values["total_steps"] = total_steps
    if estimated_finish is not None:
        values["estimated_finish"] = estimated_finish
    return fenced(tx, job_id, fence, **values).want


def hold(tx: Tx, job_id: str, fence: int) -> JobRecord:
    """The job as it is now, which nobody else can change before this transaction ends. Raises `LeaseLost`."""
    return fenced(tx, job_id, fence, progress_at=db.now())


def resolve(
    tx: Tx,
    job_id: str,
    fence: int,
    *,
    hyperparameters: dict[str, Any],
    method: dict[str, Any],
    rootstock: dict[str, Any],
    total_steps: int,
) -> None:
    """Put the resolved numbers in place of each "auto". Raises `LeaseLost`."""
    numbers = {"hyperparameters": hyperparameters, "method": method, "rootstock": rootstock}
    fenced(tx, job_id, fence, total_steps=total_steps, **numbers)


def examined(tx: Tx, job_id: str, fence: int, report: dict[str, Any]) -> None:
    """Keep what was found in the job's files. Raises `LeaseLost`."""
    fenced(tx, job_id, fence, data_report=report)


def fail(tx: Tx, job_id: str, fence: int, failure: JobFailure) -> None:
    """End the job its worker is training, with an error that the job names. Raises `LeaseLost`."""
    if move_to_failed(tx, job_id, failure, RUNNING, held=fence) is None:
        raise lost(job_id, fence)


def list_checkpoints(
    tx: Tx, project_id: str, job_id: str, *, limit: int = 10, after: str | None = None
) -> Page[CheckpointRecord]:
    """A page of the job's checkpoints, newest first. Raises `JobNotFound`, `InvalidValue` (param `after`)."""
    get(tx, project_id, job_id)
    return checkpoints.list_page(tx, job_id, limit=limit, after=after)


def to_finalizing(
    tx: Tx,
    job_id: str,
    fence: int,
    *,
    adapter_id: str,
    trained_tokens: int,
    result_file: str,
    rootstock: dict[str, Any] | None = None,
) -> None:
    """Training is done and everything is stored: the worker lets go. Raises `LeaseLost`."""
    values: dict[str, Any] = {} if rootstock is None else {"rootstock": rootstock}
    values |= {"adapter_id": adapter_id, "trained_tokens": trained_tokens, "result_file": result_file}
    job = move(tx, job_id, [RUNNING], FINALIZING, held=fence, finalizing_at=db.now(), **values)
    if job is None:
        raise lost(job_id, fence)
    end_attempt(tx, job_id, "finalizing")


def to_succeeded(tx: Tx, job_id: str, *, model_name: str) -> bool:
    """The tuned model answers. False when the job is no longer waiting for that."""
    job = move(tx, job_id, [FINALIZING], SUCCEEDED, fine_tuned_model=model_name)
    if job is not None:
        say(tx, job, f"New fine-tuned model created: {model_name}", dedupe="model-created")
        say(tx, job, "The job has successfully completed", dedupe="succeeded")
    return job is not None


def validating(tx: Tx) -> list[JobRecord]:
    """Jobs whose files have not been judged yet, although they can be: their contents have been inspected."""
    files = tables.files.c
    replay = tables.jobs.c.rootstock[("replay", "file")].as_string()
    named = files.id.in_([tables.jobs.c.training_file, tables.jobs.c.validation_file, replay])
    unread = sa.exists().where(named, files.status == "uploaded")
    return oldest(tx, [tables.jobs.c.status == VALIDATING.value, ~unread])


def finalizing(tx: Tx) -> list[JobRecord]:
    """Jobs whose adapter is stored and that wait to be seen answering."""
    return oldest(tx, [tables.jobs.c.status == FINALIZING.value])


def ended_before(tx: Tx, job_ids: Collection[str], time: float) -> list[str]:
    """Which of these jobs ended before that time."""
    query = sa.select(tables.jobs.c.id).where(tables.jobs.c.id.in_(job_ids), tables.jobs.c.finished_at < time)
    return list(tx.scalars(query))


def unrung(tx: Tx, older_than_seconds: float) -> list[JobRecord]:
    """Jobs that may be claimed and whose bell was never rung, or rung so long ago that it must have been lost."""
    late = sa.or_(tables.jobs.c.rung_at.is_(None), tables.jobs.c.rung_at < db.now() - older_than_seconds)
    return oldest(tx, [tables.jobs.c.status == QUEUED.value, tables.jobs.c.not_before <= db.now(), late])


def mark_rung(tx: Tx, job_id: str) -> None:
    """Note that the bell was rung just now, if the job still waits for a worker."""
    waiting = [tables.jobs.c.id == job_id, tables.jobs.c.status == QUEUED.value]
    tx.execute(tables.jobs.update().where(*waiting).values(rung_at=db.now(), rings=tables.jobs.c.rings + 1))


def move_to_failed(
    tx: Tx,
    job_id: str,
    failure: JobFailure,
    source: JobStatus,
    *,
    held: int | None = None,
    where: Collection[sa.ColumnElement[bool]] = (),
    outcome: str = "failed",
) -> JobRecord | None:
    """End a job with an error that it names, if it still is where `source`, `held` and `where` say."""
    error = {"code": failure.code, "message": failure.message, "param": failure.param}
    job = move(tx, job_id, [source], FAILED, held=held, where=where, error=error, **UNPUBLISHED)
    if job is not None:
        end_attempt(tx, job_id, outcome)
        # The final checkpoint carries the name of a model that will never answer; earlier ones stay usable.
        checkpoints.take_adapter(tx, job_id, job.adapter_id)
        say(tx, job, failure.message, level="error", dedupe="failed")
    return job


def oldest(tx: Tx, where: list[sa.ColumnElement[bool]]) -> list[JobRecord]:
    """The first rows that match, as many as one pass of the sweep takes."""
    return [
        record(row) for row in tx.execute(sa.select(tables.jobs).where(*where).order_by(tables.jobs.c.seq).limit(BATCH))
    ]
