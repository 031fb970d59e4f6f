"""Jobs in every stage of life, for the tests of the subject: made through the same doors as everybody uses."""

from typing import Any

import sqlalchemy as sa

from rootstock import db, events, files, ids, interruptions, jobs, publish, tables
from rootstock.db import Database, Tx
from rootstock.errors import JobFailure
from rootstock.records import DataCheck, DataFormat, EventRecord, FileRecord, JobRecord, JobStatus

GOOD = DataCheck(format=DataFormat.CHAT, examples=20)
LEASE_SECONDS = 30.0


def project(tx: Tx, project_id: str = "proj_a", organization: str = "acme") -> str:
    """A project, made when it is not there yet."""
    if not tx.scalar(sa.select(tables.projects.c.id).where(tables.projects.c.id == project_id)):
        tx.execute(
            tables.projects.insert().values(
                id=project_id, organization_id=organization, name=project_id, created_at=db.now()
            )
        )
    return project_id


def upload(tx: Tx, project_id: str = "proj_a", check: DataCheck | None = GOOD) -> FileRecord:
    """A training file's row; no object lies behind it."""
    file_id = ids.new("file-")
    return files.create(
        tx,
        file_id=file_id,
        project_id=project(tx, project_id),
        filename="train.jsonl",
        purpose="fine-tune",
        size=1,
        sha256="0" * 64,
        object_key=f"files/{file_id}",
        check=check,
    )


def submit(tx: Tx, project_id: str = "proj_a", **changes: Any) -> JobRecord:
    """An accepted job, `validating_files`."""
    wanted: dict[str, Any] = {
        "project_id": project(tx, project_id),
        "model": "gpt-4o-mini-2024-07-18",
        "base": "tiny",
        "validation": None,
        "suffix": None,
        "seed": 7,
        "method": {"type": "supervised"},
        "hyperparameters": {"n_epochs": "auto"},
        "integrations": [],
        "metadata": None,
    }
    training = changes.pop("training", None) or upload(tx, project_id)
    return jobs.create(tx, training=training, **wanted | changes)


def queue(database: Database, project_id: str = "proj_a", **changes: Any) -> JobRecord:
    """A job that waits for a worker."""
    with database.transaction() as tx:
        job = submit(tx, project_id, **changes)
        assert jobs.to_queued(tx, job.id)
    return look(database, job.id)


def claim(database: Database, base: str = "tiny", worker: str = "worker-1") -> JobRecord | None:
    """What a worker gets that asks for work."""
    with database.transaction() as tx:
        return jobs.claim(tx, base=base, worker=worker, lease_seconds=LEASE_SECONDS)


def run(database: Database, **changes: Any) -> JobRecord:
    """A job that a worker has just claimed."""
    queue(database, **changes)
    job = claim(database)
    assert job is not None
    return job


def checkpoint(tx: Tx, job: JobRecord, step: int, **changes: Any) -> Any:
    """A checkpoint at `step`."""
    adapter_id = changes.pop("adapter_id", None) or ids.new("adapter-")
    return publish.checkpoint(
        tx,
        job,
        changes.pop("fence", job.fence),
        adapter_id=adapter_id,
        state_prefix=f"states/{job.id}/{adapter_id}",
        step=step,
        epoch=changes.pop("epoch", step),
        metrics={"step": step, "train_loss": 0.5},
    )


def finalize(tx: Tx, job: JobRecord, step: int = 9, fence: int | None = None) -> str:
    """The end of training; returns the final adapter's id."""
    adapter_id = ids.new("adapter-")
    publish.finalize(
        tx,
        job,
        job.fence if fence is None else fence,
        adapter_id=adapter_id,
        state_prefix=f"states/{job.id}/{adapter_id}",
        step=step,
        epoch=step,
        metrics={"step": step, "train_loss": 0.1},
        trained_tokens=1234,
        result_csv=publish.ResultFile(id=ids.new("file-"), bytes=10, sha256="1" * 64),
    )
    return adapter_id


def bring(database: Database, status: JobStatus) -> JobRecord:
    """A job in this status."""
    if status is JobStatus.VALIDATING_FILES:
        with database.transaction() as tx:
            return submit(tx)
    if status is JobStatus.QUEUED:
        return queue(database)
    job = run(database)
    with database.transaction() as tx:
        if status in (JobStatus.FINALIZING, JobStatus.SUCCEEDED):
            finalize(tx, job)
        if status is JobStatus.SUCCEEDED:
            assert publish.succeed(tx, job.id)
        if status is JobStatus.PAUSED:
            interruptions.pause(tx, job.project_id, job.id)
            interruptions.hand_back(tx, job.id, job.fence)
        if status is JobStatus.FAILED:
            jobs.fail(tx, job.id, job.fence, JobFailure("server_error", "It broke."))
        if status is JobStatus.CANCELLED:
            jobs.cancel(tx, job.project_id, job.id)
    job = look(database, job.id)
    assert job.status is status
    return job


def expire(database: Database, job_id: str) -> None:
    """Let the lease of a running job's worker run out."""
    with database.transaction() as tx:
        tx.execute(
            tables.jobs.update()
            .where(tables.jobs.c.id == job_id, tables.jobs.c.lease_expires_at.is_not(None))
            .values(lease_expires_at=db.now() - 1)
        )


def look(database: Database, job_id: str) -> JobRecord:
    """The job as it is now."""
    with database.read() as tx:
        job = jobs.find(tx, job_id)
    assert job is not None
    return job


def said(database: Database, job_id: str) -> list[EventRecord]:
    """The job's events, oldest first."""
    with database.read() as tx:
        return events.list_page(tx, job_id, limit=1000).data[::-1]


def outcomes(database: Database, job_id: str) -> list[str | None]:
    """How the job's attempts ended, in order; `None` for one that goes on."""
    attempts = tables.job_attempts
    with database.read() as tx:
        query = sa.select(attempts.c.outcome).where(attempts.c.job_id == job_id).order_by(attempts.c.fence)
        return list(tx.scalars(query))


def lose(database: Database, job: JobRecord, max_attempts: int = 3) -> JobRecord | None:
    """What becomes of a running job whose worker has died; it may be claimed at once."""
    expire(database, job.id)
    with database.transaction() as tx:
        moved = interruptions.requeue(tx, look(database, job.id), max_attempts)
        tx.execute(tables.jobs.update().where(tables.jobs.c.id == job.id).values(not_before=db.now()))
    return moved
