"""`/v1/files`: upload, list, retrieve, delete, download. Knows nothing about jobs."""

import base64
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rootstock import files, idempotency, ids
from rootstock.records import Caller, FileRecord
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep
from service.document import refusal
from service.multipart import discard, receive
from service.query import Limit
from service.upload import Upload
from service.wire import Deleted, File, FilePage

router = APIRouter(prefix="/v1/files", tags=["files"])

MAX_LIMIT = 10_000

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
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The content, with a filename; `.jsonl` (or none) for `fine-tune`.",
                        },
                        "purpose": {
                            "type": "string",
                            "enum": list(files.UPLOAD_PURPOSES),
                            "description": "What the file is for. Parts may come in any order.",
                        },
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": files.MIN_EXPIRY_SECONDS,
                            "maximum": files.MAX_EXPIRY_SECONDS,
                            "description": "Seconds after the anchor; both or neither.",
                        },
                    },
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                },
                "example": {"purpose": "fine-tune", "file": '{"messages": [...]}'},
                "encoding": {"file": {"contentType": "application/octet-stream"}},
            }
        },
    }
}


@router.post(
    "",
    openapi_extra=UPLOAD_SCHEMA,
    responses={404: refusal("The file made under this `Idempotency-Key` was deleted.")},
)
async def create_file(request: Request, parts: PartsDep, caller: CallerDep, key: IdempotencyKeyDep) -> File:
    """Upload a file; it streams to the store while its lines are checked, and exists once the answer is sent.

    The same file under the same `Idempotency-Key` is the one made before, for 24 hours.
    """
    file_id = ids.new("file-")
    object_key = f"files/{file_id}"
    upload = await receive(
        request,
        parts.limits.upload(caller),
        lambda: Upload(request.headers.get("content-type", ""), lambda: parts.store.writer(object_key), parts.settings),
    )
    return File.of(await run_in_threadpool(_record, parts, caller, key, file_id, object_key, upload))


@router.get("")
def list_files(
    parts: PartsDep,
    caller: CallerDep,
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    limit: Limit = MAX_LIMIT,
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
    "/{file_id}/content",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    },
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


def _record(parts: Parts, caller: Caller, key: str | None, file_id: str, object_key: str, upload: Upload) -> FileRecord:
    """Write the row, last of all; without it the object is removed again."""
    found = upload.inspected()
    identity = [found.sha256, upload.purpose, upload.filename, upload.expires_after]
    attempt = idempotency.Attempt(caller.project_id, "file", key, identity)
    try:
        with parts.db.transaction() as tx:
            earlier = attempt.recall(tx)
            if earlier is not None:
                record = files.get(tx, caller.project_id, earlier)
            else:
                record = files.create(
                    tx,
                    file_id=file_id,
                    project_id=caller.project_id,
                    filename=str(upload.filename),
                    purpose=upload.purpose,
                    size=upload.size,
                    sha256=found.sha256,
                    object_key=object_key,
                    check=found.check if upload.purpose == "fine-tune" else None,
                    expires_after=upload.expires_after,
                )
                attempt.remember(tx, file_id)
    except Exception:
        discard(parts.store, object_key)
        raise
    if record.id != file_id:
        discard(parts.store, object_key)
    return record


def _disposition(filename: str) -> str:
    """RFC 6266: a plain form for old clients, the exact one percent-encoded."""
    plain = "".join(c if 32 <= ord(c) < 127 and c not in '"\\%' else "_" for c in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
