"""`/v1/batches`: create, retrieve, list, cancel. Knows nothing about how the lines are answered; a worker does that."""

import logging
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query
from starlette.requests import Request

from rootstock import batches, files, idempotency
from rootstock.db import Tx
from rootstock.errors import FileNotFound, InvalidRequest, Unavailable
from rootstock.records import BatchRecord, BatchStatus, Caller, FileRecord
from service import retries
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep, body_schema, json_body
from service.query import Limit
from service.wire_batches import Batch, BatchPage, CreateBatch

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/batches", tags=["batches"])


@router.post("", openapi_extra=body_schema(CreateBatch))
def create_batch(
    body: Annotated[CreateBatch, json_body(CreateBatch)],
    request: Request,
    background: BackgroundTasks,
    parts: PartsDep,
    caller: CallerDep,
    key: IdempotencyKeyDep,
) -> Batch:
    """Accept a batch; its lines are read after the answer, and faults in them show in the batch as `failed`.

    A repeated request gets the batch that it made before: for 24 hours by its `Idempotency-Key`, for ten minutes when
    an SDK says that it is a retry.
    """
    if not parts.upstream.configured:
        raise Unavailable("This deployment serves no models: no vLLM is configured.")
    attempt = idempotency.Attempt(caller.project_id, "batch", key, body.model_dump(mode="json"))
    with parts.db.transaction() as tx:
        # Without a key too: an SDK's retry may come while its first attempt is still at work.
        idempotency.lock(tx, caller.project_id)
        earlier = attempt.recall(tx)
        if earlier is not None:
            batch = batches.get(tx, caller.project_id, earlier)
        else:
            batch = _create(tx, parts, caller, request, body)
            attempt.remember(tx, batch.id)
    background.add_task(_ring, parts, batch)
    return Batch.of(batch)


@router.get("")
def list_batches(
    parts: PartsDep,
    caller: CallerDep,
    limit: Annotated[Limit, Query(description="Clamped to 1..100.")] = 20,
    after: str | None = None,
) -> BatchPage:
    """The project's batches, newest first."""
    with parts.db.read() as tx:
        return BatchPage.of(batches.list_page(tx, caller.project_id, limit=limit, after=after))


@router.get("/{batch_id}")
def retrieve_batch(batch_id: str, parts: PartsDep, caller: CallerDep) -> Batch:
    """One batch."""
    with parts.db.read() as tx:
        return Batch.of(batches.get(tx, caller.project_id, batch_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, background: BackgroundTasks, parts: PartsDep, caller: CallerDep) -> Batch:
    """Stop a batch; what was answered until then is kept. 400 when it has ended. Any body is ignored."""
    with parts.db.transaction() as tx:
        batch = batches.cancel(tx, caller.project_id, batch_id)
    background.add_task(_ring, parts, batch)
    return Batch.of(batch)


def _ring(parts: Parts, batch: BatchRecord) -> None:
    """After the answer: wake a worker. The sweep does the same, so a failure loses nothing."""
    try:
        parts.sweep.ring_batch(batch)
    except Exception:
        log.exception("could not ring for batch %s; the sweep will", batch.id)


def _create(tx: Tx, parts: Parts, caller: Caller, request: Request, body: CreateBatch) -> BatchRecord:
    source = _input(tx, parts, caller, body.input_file_id)
    expires = body.output_expires_after.seconds if body.output_expires_after else None
    wanted = (source.id, body.endpoint, expires, body.metadata)

    def same(batch: BatchRecord) -> bool:
        found = (batch.input_file, batch.endpoint, batch.output_expires_after, batch.metadata)
        return found == wanted and batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED)

    def newest() -> list[BatchRecord]:
        return batches.list_page(tx, caller.project_id, limit=retries.LOOK_BACK).data

    return retries.earlier(request, newest, same) or batches.create(
        tx,
        project_id=caller.project_id,
        endpoint=body.endpoint,
        source=source,
        completion_window=body.completion_window,
        output_expires_after=expires,
        metadata=body.metadata,
    )


def _input(tx: Tx, parts: Parts, caller: Caller, file_id: str) -> FileRecord:
    try:
        record = files.get(tx, caller.project_id, file_id, lock=True)
    except FileNotFound:
        raise InvalidRequest(f"invalid input_file_id: {file_id[:512]}", param="input_file_id") from None
    if record.purpose != "batch":
        raise InvalidRequest(
            f"File {record.id} has the purpose '{record.purpose}'; a batch needs the purpose 'batch'.",
            param="input_file_id",
        )
    if record.bytes > parts.settings.max_batch_file_bytes:
        raise InvalidRequest(
            f"File {record.id} has {record.bytes} bytes; a batch may have {parts.settings.max_batch_file_bytes}.",
            param="input_file_id",
        )
    return record
