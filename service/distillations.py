"""`/v1/rootstock/distillations`: a teacher's answers as training data. The asking is `service.distilling`'s."""

import logging
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query

from rootstock import distillations, files, idempotency
from rootstock.bell import BATCHES
from rootstock.datasets.parse import Fault
from rootstock.db import Tx
from rootstock.distil import Prompt
from rootstock.distil.records import Distillation
from rootstock.errors import FileNotFound, InvalidRequest, InvalidValue, NotFound, Unavailable
from rootstock.grading import compile_grader
from rootstock.records import Caller
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep, body_schema, json_body
from service.gateway import Gateway
from service.outbound import networks, refusal
from service.query import Limit
from service.wire_distillations import (
    CreateDistillation,
    DistillationPage,
    FileSource,
    PromptsSource,
    ShownDistillation,
    StoredSource,
)

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/rootstock/distillations", tags=["distillation"])


@router.post("", openapi_extra=body_schema(CreateDistillation))
def create_distillation(
    body: Annotated[CreateDistillation, json_body(CreateDistillation)],
    background: BackgroundTasks,
    parts: PartsDep,
    caller: CallerDep,
    key: IdempotencyKeyDep,
) -> ShownDistillation:
    """Accept a distillation; its prompts are read and asked after the answer, by a batch worker."""
    if not parts.upstream.configured:
        raise Unavailable("This deployment has no batch worker: no vLLM is configured.")
    _check(parts, caller, body)
    attempt = idempotency.Attempt(caller.project_id, "distillation", key, body.model_dump(mode="json"))
    with parts.db.transaction() as tx:
        earlier = attempt.recall(tx)
        if earlier is not None:
            return ShownDistillation.of(distillations.get(tx, caller.project_id, earlier))
        run = _create(tx, parts, caller, body)
        attempt.remember(tx, run.id)
    background.add_task(_ring, parts, run)
    return ShownDistillation.of(run)


@router.get("")
def list_distillations(
    parts: PartsDep,
    caller: CallerDep,
    limit: Annotated[Limit, Query(description="Clamped to 1..100.")] = 20,
    after: str | None = None,
) -> DistillationPage:
    """The project's distillations, newest first."""
    with parts.db.read() as tx:
        return DistillationPage.of(distillations.list_page(tx, caller.project_id, limit=limit, after=after))


@router.get("/{distillation_id}")
def retrieve_distillation(distillation_id: str, parts: PartsDep, caller: CallerDep) -> ShownDistillation:
    """One distillation."""
    with parts.db.read() as tx:
        return ShownDistillation.of(distillations.get(tx, caller.project_id, distillation_id))


@router.post("/{distillation_id}/cancel")
def cancel_distillation(distillation_id: str, parts: PartsDep, caller: CallerDep) -> ShownDistillation:
    """End it at once, without a file; 400 when it has ended. Any body is ignored."""
    with parts.db.transaction() as tx:
        return ShownDistillation.of(distillations.cancel(tx, caller.project_id, distillation_id))


def _check(parts: Parts, caller: Caller, body: CreateDistillation) -> None:
    """Refuse what cannot come to anything, before anything is written."""
    teacher, source = body.teacher, body.source
    if teacher is None and not isinstance(source, StoredSource):
        raise InvalidValue(
            "Prompts have no answers yet: name a 'teacher' that gives them.", param="teacher", code="missing_teacher"
        )
    if teacher is not None and teacher.base_url is None:
        if teacher.api_key is not None:
            raise InvalidValue(
                "'teacher.api_key' is for a foreign endpoint: give its 'base_url' with it.", param="teacher.api_key"
            )
        try:
            Gateway(parts.settings, parts.db, parts.upstream).addressee(caller, teacher.model)
        except NotFound as error:
            raise InvalidValue(error.message, param="teacher.model", code="model_not_found") from None
    if teacher is not None and teacher.base_url is not None:
        reason = refusal(teacher.base_url, networks(parts.settings.webhook_allowed_networks))
        if reason is not None:
            raise InvalidValue(f"Invalid 'teacher.base_url': {reason}.", param="teacher.base_url")
    if isinstance(source, PromptsSource):
        for number, line in enumerate(source.prompts):
            try:
                Prompt.of(line)
            except Fault as fault:
                param = f"source.prompts[{number}]"
                raise InvalidValue(f"Invalid '{param}'{fault.text}.", param=param) from None
    if body.filters is not None and body.filters.grader is not None:
        compile_grader(body.filters.grader.grader.model_dump(exclude_none=True), at="filters.grader.grader")


def _create(tx: Tx, parts: Parts, caller: Caller, body: CreateDistillation) -> Distillation:
    source_object = None
    if isinstance(body.source, FileSource):
        try:
            file = files.get(tx, caller.project_id, body.source.file_id, lock=True)
        except FileNotFound:
            param = "source.file_id"
            raise InvalidRequest(f"invalid {param}: {body.source.file_id[:512]}", param=param) from None
        if file.bytes > parts.settings.max_batch_file_bytes:
            raise InvalidRequest(
                f"File {file.id} has {file.bytes} bytes; prompts may have {parts.settings.max_batch_file_bytes}.",
                param="source.file_id",
            )
        source_object = file.object_key
    spec, prompts = body.spec(), None
    if isinstance(body.source, PromptsSource):
        prompts = [Prompt.of(line).keeping_to(spec["response_format"]) for line in body.source.prompts]
    return distillations.create(
        tx,
        caller.project_id,
        spec=spec,
        source_object=source_object,
        teacher_key=body.teacher.api_key if body.teacher else None,
        prompts=prompts,
    )


def _ring(parts: Parts, run: Distillation) -> None:
    """After the answer: wake a worker. Workers look by themselves, too, so a failure loses nothing."""
    try:
        parts.bell.ring(BATCHES, run.id, 1)
    except Exception:
        log.exception("could not ring for %s; a worker will look", run.id)
