"""Jobs that stop without ending: paused by their owner, handed back by their worker, or lost together with it.

A pause is a wish that the worker hears: it stops after the step it is at, stores a checkpoint and lets go. The API
shows `paused` from the moment of the wish, and `queued` when the owner thinks better of it before the worker has
stopped; the row says `running` until then, so that the worker may still write. Knows nothing about training.
"""

import sqlalchemy as sa

from rootstock import db, ids, jobs, leases, tables
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, JobFailure
from rootstock.moves import FINALIZING, PAUSED, QUEUED, RUNNING, end_attempt, move, record
from rootstock.records import JobRecord


def pause(tx: Tx, project_id: str, job_id: str) -> JobRecord:
    """Let a job rest until it is resumed; once more does no harm.

    A worker that finds no step left when it hears of it finishes the job instead.
    Raises `JobNotFound`, and `InvalidRequest` when there is nothing to pause (not judged yet, trained, or ended).
    """
    job = _locked(tx, project_id, job_id)
    if job.status is QUEUED:
        moved = move(tx, job_id, [QUEUED], PAUSED)
        assert moved is not None  # the row is locked
        jobs.say(tx, moved, "Job paused", dedupe=ids.new("paused-"))
        return moved
    if job.status is RUNNING:
        if job.want == "pause":
            return job
        jobs.say(tx, job, "Pausing the job after the current step", dedupe=ids.new("pausing-"))
        return _wish(tx, job, "pause")
    if job.status is PAUSED:
        return job
    reason = "its training is complete" if job.status is FINALIZING else f"its status is '{job.shown_status}'"
    raise InvalidRequest(f"Job {job_id} cannot be paused: {reason}.")


def resume(tx: Tx, project_id: str, job_id: str) -> JobRecord:
    """Queue a paused job again; it goes on where it stopped, and its worker's earlier deaths are forgotten.

    Raises `JobNotFound`, and `InvalidRequest` when the job is not paused.
    """
    job = _locked(tx, project_id, job_id)
    if job.status is RUNNING and job.want == "pause":
        moved = _wish(tx, job, "resume")  # its worker may be half-way out of the door: let it leave, then queue
    elif job.status is PAUSED:
        queued = move(tx, job_id, [PAUSED], QUEUED, attempts=0, not_before=db.now(), rung_at=None)
        assert queued is not None  # the row is locked
        moved = queued
    else:
        raise InvalidRequest(f"Job {job_id} cannot be resumed: its status is '{job.shown_status}', not 'paused'.")
    jobs.say(tx, moved, "Job resumed, moving job to queued state", dedupe=ids.new("resumed-"))
    return moved


def hand_back(tx: Tx, job_id: str, fence: int) -> JobRecord:
    """Let go of the job before its end: it rests when its owner wants that, else it is queued; no attempt is counted.

    Raises `LeaseLost`.
    """
    job = jobs.hold(tx, job_id, fence)
    to = PAUSED if job.want == "pause" else QUEUED
    attempts = 0 if job.want == "resume" else job.attempts - 1
    moved = move(tx, job_id, [RUNNING], to, held=fence, attempts=attempts, not_before=db.now(), rung_at=None)
    assert moved is not None  # held
    end_attempt(tx, job_id, "paused" if to is PAUSED else "handed_back")
    if to is PAUSED:
        jobs.say(tx, moved, "Job paused", dedupe=f"paused-{fence}")
    elif job.want == "run":  # who resumed the job was told already
        said = "The training worker is shutting down, moving job to queued state"
        jobs.say(tx, moved, said, dedupe=f"handed-back-{fence}")
    return moved


def expired_leases(tx: Tx) -> list[JobRecord]:
    """Running jobs whose worker has been silent for longer than its lease."""
    return jobs.oldest(tx, [tables.jobs.c.status == RUNNING.value, tables.jobs.c.lease_expires_at < db.now()])


def requeue(tx: Tx, job: JobRecord, max_attempts: int) -> JobRecord | None:
    """Give up on a silent worker: queue the job again, later each time, or fail it when that keeps happening.

    A job that was to be paused rests instead, wherever its last checkpoint is. `None` when the worker was heard in
    the meantime, or the job has moved on, or its owner has changed their mind.
    """
    as_found = [tables.jobs.c.lease_expires_at < db.now(), tables.jobs.c.want == job.want]
    died = "The training worker stopped unexpectedly"
    if job.want == "pause":
        moved = move(tx, job.id, [RUNNING], PAUSED, held=job.fence, where=as_found)
        said = f"{died} before it could save the step it was at; the job is paused and goes on from its last checkpoint"
    elif job.attempts >= max_attempts:
        times = "once" if job.attempts == 1 else f"{job.attempts} times"
        text = f"The job failed because its training worker stopped unexpectedly {times} while working on it."
        failure = JobFailure("server_error", text)
        return jobs.move_to_failed(tx, job.id, failure, RUNNING, held=job.fence, where=as_found, outcome="lost")
    else:
        wait = leases.backoff_seconds(job.attempts)
        later = {"not_before": db.now() + wait, "rung_at": None}
        moved = move(tx, job.id, [RUNNING], QUEUED, held=job.fence, where=as_found, **later)
        said = f"{died} (attempt {job.attempts} of {max_attempts}), moving job to queued state"
    if moved is not None:
        end_attempt(tx, job.id, "lost")
        jobs.say(tx, moved, said, level="warn", dedupe=f"lost-{job.fence}")
    return moved


def _locked(tx: Tx, project_id: str, job_id: str) -> JobRecord:
    """The project's job, which nobody else can change before this transaction ends (SQLite's has the only pen)."""
    jobs.get(tx, project_id, job_id)
    row = tx.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job_id).with_for_update()).one()
    return record(row)


def _wish(tx: Tx, job: JobRecord, want: str) -> JobRecord:
    row = tx.execute(tables.jobs.update().where(tables.jobs.c.id == job.id).values(want=want).returning(tables.jobs))
    return record(row.one())
