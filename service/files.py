"""`/v1/files`: upload, list, retrieve, delete, download. Knows nothing about jobs."""

import base64
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rootstock import files, idempotency, ids
from rootstock.errors import RootstockError, StoreError
from rootstock.records import Caller, FileRecord
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep
from service.upload import Upload, Uploaded
from service.wire import Deleted, File, FilePage

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/files", tags=["files"])

MAX_LIMIT = 10_000
DRAIN_SECONDS = 2.0
DRAIN_BYTES = 64 * 1024 * 1024

UPLOAD_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(files.UPLOAD_PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=UPLOAD_SCHEMA)
async def create_file(request: Request, parts: PartsDep, caller: CallerDep, key: IdempotencyKeyDep) -> File:
    """Upload a file; it streams to the store while its lines are checked, and exists once the answer is sent.

    The same file under the same `Idempotency-Key` is the one made before, for 24 hours.
    """
    file_id = ids.new("file-")
    object_key = f"files/{file_id}"
    body = request.stream()
    upload: Upload | None = None
    try:
        await parts.limits.upload(caller)
        upload = Upload(
            request.headers.get("content-type", ""),
            lambda: parts.store.writer(object_key),
            max_file_bytes=parts.settings.max_file_bytes,
            max_batch_file_bytes=parts.settings.max_batch_file_bytes,
            max_line_bytes=parts.settings.max_line_bytes,
        )
        async for chunk in body:
            upload.feed(chunk)
            if upload.full:
                await run_in_threadpool(upload.flush)
        uploaded = await run_in_threadpool(upload.finish)
    except RootstockError:
        request.state.close = not await _drained(body)
        raise
    finally:
        if upload is not None:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(upload.abort)
    attempt = idempotency.Attempt(caller.project_id, "file", key, uploaded.identity)
    return File.of(await run_in_threadpool(_record, parts, attempt, file_id, object_key, uploaded))


@router.get("")
def list_files(
    parts: PartsDep,
    caller: CallerDep,
    purpose: str | None = None,
    limit: Annotated[int, Query(description="Clamped to 1..10000.")] = MAX_LIMIT,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> FilePage:
    """The project's files, newest first unless `order=asc`."""
    with parts.db.read() as tx:
        page = files.list_page(tx, caller.project_id, purpose=purpose, limit=limit, order=order, after=after)
    return FilePage.of(page)


@router.get("/{file_id}")
def retrieve_file(file_id: str, parts: PartsDep, caller: CallerDep) -> File:
    """One file."""
    return File.of(_get(parts, caller, file_id))


@router.delete("/{file_id}")
def delete_file(file_id: str, parts: PartsDep, caller: CallerDep) -> Deleted:
    """Delete a file; jobs that use it keep their own snapshot until they end."""
    with parts.db.transaction() as tx:
        files.delete(tx, caller.project_id, file_id)
    return Deleted(id=file_id, object="file", deleted=True)


@router.get(
    "/{file_id}/content", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}}
)
def file_content(file_id: str, parts: PartsDep, caller: CallerDep) -> Response:
    """The bytes of a file; a result file comes base64-encoded unless the operator has set it to plain."""
    record = _get(parts, caller, file_id)
    headers = {"content-disposition": _disposition(record.filename)}
    if record.purpose == "fine-tune-results" and parts.settings.result_file_encoding == "base64":
        # Published notebooks decode it before they read it.
        encoded = base64.b64encode(parts.store.get_bytes(record.object_key))
        return Response(encoded, headers=headers, media_type="application/octet-stream")
    chunks: Iterator[bytes] = parts.store.get(record.object_key)
    headers["content-length"] = str(record.bytes)
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


def _get(parts: Parts, caller: Caller, file_id: str) -> FileRecord:
    with parts.db.read() as tx:
        return files.get(tx, caller.project_id, file_id)


def _record(
    parts: Parts, attempt: idempotency.Attempt, file_id: str, object_key: str, uploaded: Uploaded
) -> FileRecord:
    """Write the row, last of all; an object that gets none is removed again."""
    seconds = uploaded.expires_seconds or files.DEFAULT_EXPIRY_SECONDS.get(uploaded.purpose)
    try:
        with parts.db.transaction() as tx:
            earlier = attempt.recall(tx)
            if earlier is not None:
                record = files.get(tx, attempt.project_id, earlier)
            else:
                record = files.create(
                    tx,
                    file_id=file_id,
                    project_id=attempt.project_id,
                    filename=uploaded.filename,
                    purpose=uploaded.purpose,
                    size=uploaded.size,
                    sha256=uploaded.sha256,
                    object_key=object_key,
                    check=uploaded.check,
                    expires_at=None if seconds is None else time.time() + seconds,
                )
                attempt.remember(tx, file_id)
    except Exception:
        _discard(parts, object_key)
        raise
    if record.id != file_id:
        _discard(parts, object_key)
    return record


def _discard(parts: Parts, object_key: str) -> None:
    try:
        parts.store.delete(object_key)
    except StoreError as error:
        log.warning("an object without a row stays in the store: %s", error.message)


async def _drained(body: AsyncIterator[bytes]) -> bool:
    """Take some of what is still being sent, so that the refusal reaches clients that read only after writing.

    False when there was more than that: then the connection is closed.
    """
    taken = 0
    with anyio.move_on_after(DRAIN_SECONDS):
        async for chunk in body:
            taken += len(chunk)
            if taken > DRAIN_BYTES:
                return False
        return True
    return False


def _disposition(filename: str) -> str:
    """RFC 6266: a plain form for old clients, the exact one percent-encoded."""
    plain = "".join(c if 32 <= ord(c) < 127 and c not in '"\\%' else "_" for c in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
