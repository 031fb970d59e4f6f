"""`/v1/fine_tuning/jobs`: create, look, stop, go on. Knows nothing about training."""

import logging
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks
from starlette.requests import Request

from rootstock import events, idempotency, interruptions, jobs, releases
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep, body_schema, json_body
from service.job_wish import Wish
from service.query import METADATA_FILTER, Limit, metadata_filter
from service.wire_estimates import ShownEstimate
from service.wire_jobs import CheckpointPage, CreateJob, Event, EventPage, Job, JobPage

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


@router.post("", openapi_extra=body_schema(CreateJob))
def create_job(
    body: Annotated[CreateJob, json_body(CreateJob)],
    request: Request,
    background: BackgroundTasks,
    parts: PartsDep,
    caller: CallerDep,
    key: IdempotencyKeyDep,
) -> Job | ShownEstimate:
    """Accept a job after cheap checks only; what the files hold is judged after the answer.

    With `rootstock.dry_run` nothing is created, and the answer is what the job would take.

    A repeated request gets the job that it made before: for 24 hours by its `Idempotency-Key`, for ten minutes when an
    SDK says that it is a retry.
    """
    wish = Wish(parts.settings, caller, body, parts.upstream.most_rank)
    if body.rootstock is not None and body.rootstock.dry_run:
        with parts.db.read() as tx:
            return ShownEstimate.of(*wish.estimate(tx))
    attempt = idempotency.Attempt(caller.project_id, "job", key, body.model_dump(mode="json"))
    with parts.db.transaction() as tx:
        # Without a key too: an SDK's retry may come while its first attempt is still at work.
        idempotency.lock(tx, caller.project_id)
        earlier = attempt.recall(tx)
        if earlier is not None:
            job = jobs.get(tx, caller.project_id, earlier)
        else:
            job = wish.create(tx, request)
            attempt.remember(tx, job.id)
    background.add_task(_begin, parts, job.id)
    return Job.of(job, caller.organization_id)


@router.get("", openapi_extra={"parameters": [METADATA_FILTER]})
def list_jobs(
    request: Request, parts: PartsDep, caller: CallerDep, limit: Limit = 20, after: str | None = None
) -> JobPage:
    """The project's jobs, newest first; `metadata[k]=v` filters (all must match), `metadata=null` means none at all."""
    wanted, without = metadata_filter(request)
    with parts.db.read() as tx:
        page = jobs.list_page(
            tx, caller.project_id, limit=limit, after=after, metadata=wanted, without_metadata=without
        )
    data = [Job.of(record, caller.organization_id) for record in page.data]
    return JobPage(object="list", data=data, has_more=page.has_more)


@router.get("/{job_id}")
def retrieve_job(job_id: str, parts: PartsDep, caller: CallerDep) -> Job:
    """One job."""
    with parts.db.read() as tx:
        return Job.of(jobs.get(tx, caller.project_id, job_id), caller.organization_id)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, parts: PartsDep, caller: CallerDep) -> Job:
    """End a job at once; 400 when it has ended already. Any body is ignored, because SDKs send none or `{}`."""
    with parts.db.transaction() as tx:
        return Job.of(jobs.cancel(tx, caller.project_id, job_id), caller.organization_id)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, parts: PartsDep, caller: CallerDep) -> Job:
    """Let a queued or running job rest; 400 when it is not yet, or no longer, one of these.

    A running one stops after the step that it is at and leaves a checkpoint, which may be called like a model. Any
    body is ignored.
    """
    with parts.db.transaction() as tx:
        return Job.of(interruptions.pause(tx, caller.project_id, job_id), caller.organization_id)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, background: BackgroundTasks, parts: PartsDep, caller: CallerDep) -> Job:
    """Queue a paused job again, to go on where it stopped; 400 when it is not paused. Any body is ignored."""
    with parts.db.transaction() as tx:
        job = interruptions.resume(tx, caller.project_id, job_id)
    background.add_task(_ring, parts, job.id)
    return Job.of(job, caller.organization_id)


@router.get("/{job_id}/events")
def list_events(
    job_id: str, parts: PartsDep, caller: CallerDep, limit: Limit = 20, after: str | None = None
) -> EventPage:
    """The job's log, newest first."""
    with parts.db.read() as tx:
        jobs.get(tx, caller.project_id, job_id)
        page = events.list_page(tx, job_id, limit=limit, after=after)
    return EventPage(object="list", data=[Event.of(record) for record in page.data], has_more=page.has_more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, parts: PartsDep, caller: CallerDep, limit: Limit = 10, after: str | None = None
) -> CheckpointPage:
    """The job's checkpoints, newest first."""
    with parts.db.read() as tx:
        page = jobs.list_checkpoints(tx, caller.project_id, job_id, limit=limit, after=after)
    return CheckpointPage.of(page)


def _begin(parts: Parts, job_id: str) -> None:
    """After the answer: judge the files and wake a trainer. The sweep does the same, so a failure loses nothing."""
    try:
        if parts.sweep.judge(job_id):
            with parts.db.read() as tx:
                measured = releases.of_job(tx, job_id) is not None
            if measured:
                parts.sweep.ring_measuring(job_id, 1)
    except Exception:
        log.exception("job %s could not be judged yet; the sweep will", job_id)


def _ring(parts: Parts, job_id: str) -> None:
    try:
        parts.sweep.ring(job_id)
    except Exception:
        log.exception("could not ring for job %s; the sweep will", job_id)
