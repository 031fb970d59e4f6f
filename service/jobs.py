"""`/v1/fine_tuning/jobs`: create, retrieve, list, cancel, events, checkpoints. Knows nothing about training."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks
from starlette.requests import Request

from rootstock import events, files, idempotency, jobs, models
from rootstock.db import Tx
from rootstock.errors import FileNotFound, InvalidRequest, InvalidValue
from rootstock.records import Caller, FileRecord, JobRecord, JobStatus
from service import retries
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep, body_schema, json_body
from service.query import METADATA_FILTER, Limit, metadata_filter
from service.wire_jobs import CheckpointPage, CreateJob, Event, EventPage, Hyperparameters, Job, JobPage

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
) -> Job:
    """Accept a job after cheap checks only; what the files hold is judged after the answer.

    A repeated request gets the job that it made before: for 24 hours by its `Idempotency-Key`, for ten minutes when an
    SDK says that it is a retry.
    """
    model, base = models.resolve_base(parts.settings, body.model)
    asked = _hyperparameters(body)
    _refuse_integrations(body)
    attempt = idempotency.Attempt(caller.project_id, "job", key, body.model_dump(mode="json"))
    with parts.db.transaction() as tx:
        # Without a key too: an SDK's retry may come while its first attempt is still at work.
        idempotency.lock(tx, caller.project_id)
        earlier = attempt.recall(tx)
        if earlier is not None:
            job = jobs.get(tx, caller.project_id, earlier)
        else:
            job = _create(tx, caller, request, body, model, base, asked)
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
        parts.sweep.judge(job_id)
    except Exception:
        log.exception("job %s could not be judged yet; the sweep will", job_id)


def _create(
    tx: Tx, caller: Caller, request: Request, body: CreateJob, model: str, base: str, asked: dict[str, Any]
) -> JobRecord:
    wanted: dict[str, Any] = {
        "model": model,
        "training": _file(tx, caller, body.training_file, "training_file"),
        "validation": _file(tx, caller, body.validation_file, "validation_file") if body.validation_file else None,
        "suffix": body.suffix,
        "seed": body.seed,
        "metadata": body.metadata,
    }
    return _earlier_attempt(tx, caller, request, wanted, asked) or jobs.create(
        tx,
        project_id=caller.project_id,
        base=base,
        method={"type": "supervised", "supervised": {"hyperparameters": asked}},
        hyperparameters=asked,
        integrations=[],
        **wanted,
    )


def _file(tx: Tx, caller: Caller, file_id: str, param: str) -> FileRecord:
    try:
        record = files.get(tx, caller.project_id, file_id, lock=True)
    except FileNotFound:
        raise InvalidRequest(f"invalid {param}: {file_id[:512]}", param=param) from None
    if record.purpose != "fine-tune":
        raise InvalidRequest(
            f"File {record.id} has the purpose '{record.purpose}'; a {param} needs the purpose 'fine-tune'.",
            param=param,
        )
    return record


def _hyperparameters(body: CreateJob) -> dict[str, Any]:
    """What is asked for, from whichever of the two places; "auto" where nothing is."""
    method, old = body.method, body.hyperparameters
    if method is None:
        return (old or Hyperparameters()).model_dump()
    if method.type != "supervised":
        raise InvalidValue(
            f"The method '{method.type}' is not supported by this deployment; use 'supervised'.",
            param="method.type",
            code="unsupported_value",
        )
    for branch in ("dpo", "reinforcement"):
        if getattr(method, branch) is not None:
            raise InvalidValue(f"'method.{branch}' does not go with the type 'supervised'.", param=f"method.{branch}")
    new = method.supervised.hyperparameters if method.supervised else None
    if old is not None and new is not None and old != new:
        raise InvalidValue(
            "'hyperparameters' differs from 'method.supervised.hyperparameters'; send only the latter.",
            param="hyperparameters",
        )
    return (new or old or Hyperparameters()).model_dump()


def _refuse_integrations(body: CreateJob) -> None:
    if body.integrations:
        raise InvalidValue(
            "Integrations are not supported by this deployment; leave 'integrations' out.",
            param="integrations",
            code="unsupported_value",
        )


def _earlier_attempt(
    tx: Tx, caller: Caller, request: Request, wanted: dict[str, Any], asked: dict[str, Any]
) -> JobRecord | None:
    """The job that a repeated request already made."""
    return retries.earlier(
        request,
        lambda: jobs.list_page(tx, caller.project_id, limit=retries.LOOK_BACK).data,
        lambda job: _same(job, wanted, asked),
    )


def _same(job: JobRecord, wanted: dict[str, Any], asked: dict[str, Any]) -> bool:
    validation = wanted["validation"]
    return (
        job.status is not JobStatus.CANCELLED
        and job.model == wanted["model"]
        and job.training_file == wanted["training"].id
        and job.validation_file == (validation.id if validation else None)
        and job.suffix == wanted["suffix"]
        and (wanted["seed"] is None or job.seed == wanted["seed"])
        and job.metadata == wanted["metadata"]
        # "auto" may have been resolved to a number meanwhile.
        and all(value in ("auto", job.hyperparameters.get(name)) for name, value in asked.items())
    )
