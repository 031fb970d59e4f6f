"""`/v1/uploads`: files in parts, which may arrive side by side and in any order. Knows nothing about jobs."""

import hashlib
import json
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from rootstock import files, idempotency, ids, uploads
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, InvalidValue
from rootstock.inspection import Inspected, Inspection
from rootstock.records import Caller, FileRecord, PartRecord, UploadRecord
from service.deps import CallerDep, IdempotencyKeyDep, Parts, PartsDep, body_schema, json_body
from service.multipart import StreamedFile, discard, receive
from service.wire_uploads import CompleteUpload, CreateUpload, Upload, UploadPart

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

INSPECT_AT_ONCE_BYTES = 64 * 1024 * 1024
"""Up to this size the content is read before the answer, so that small files are `processed` at once."""

PART_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "additionalProperties": False,
                    "properties": {
                        "data": {"type": "string", "format": "binary", "description": "The piece, up to 64 MB."}
                    },
                },
                "example": {"data": '{"messages": [...]}'},
                "encoding": {"data": {"contentType": "application/octet-stream"}},
            }
        },
    }
}


class Part(StreamedFile):
    """The body of one part."""

    file_field = "data"

    def limit(self) -> tuple[str, int]:
        """64 MB, however large the file is."""
        return "part", uploads.MAX_PART_BYTES


@router.post("", openapi_extra=body_schema(CreateUpload))
def create_upload(
    body: Annotated[CreateUpload, json_body(CreateUpload)], parts: PartsDep, caller: CallerDep, key: IdempotencyKeyDep
) -> Upload:
    """Begin a file in parts of up to 64 MB each; it takes parts for an hour.

    The same request under the same `Idempotency-Key` gets the upload made before, for 24 hours.
    """
    most = parts.settings.max_upload_bytes
    if body.purpose == "batch":
        most = min(most, parts.settings.max_batch_file_bytes)
    if body.bytes > most:
        text = (
            f"Invalid 'bytes': integer above maximum value. Expected a value <= {most}, but got {body.bytes} instead."
        )
        raise InvalidValue(text, param="bytes", code="integer_above_max_value")
    attempt = idempotency.Attempt(caller.project_id, "upload", key, body.model_dump(mode="json"))
    with parts.db.transaction() as tx:
        earlier = attempt.recall(tx)
        if earlier is not None:
            return _shown(tx, uploads.get(tx, caller.project_id, earlier))
        upload = uploads.create(
            tx,
            project_id=caller.project_id,
            filename=body.filename,
            purpose=body.purpose,
            mime_type=body.mime_type,
            size=body.bytes,
            file_expires_after=body.expires_after.seconds if body.expires_after else None,
        )
        attempt.remember(tx, upload.id)
    return Upload.of(upload)


@router.post("/{upload_id}/parts", openapi_extra=PART_SCHEMA)
async def add_part(upload_id: str, request: Request, parts: PartsDep, caller: CallerDep) -> UploadPart:
    """Add a piece; it streams to the store and exists once the answer is sent."""
    part_id = ids.new("part_")

    def begin() -> Part:
        with parts.db.read() as tx:  # told before 64 MB came, and again when the part is recorded
            uploads.get_pending(tx, caller.project_id, upload_id)
        return Part(
            request.headers.get("content-type", ""),
            lambda: parts.store.writer(uploads.part_key(upload_id, part_id)),
        )

    form = await receive(request, parts.limits.upload(caller), begin)
    return UploadPart.of(await run_in_threadpool(_record_part, parts, caller, upload_id, part_id, form.size))


@router.post("/{upload_id}/complete", openapi_extra=body_schema(CompleteUpload))
async def complete_upload(
    upload_id: str,
    body: Annotated[CompleteUpload, json_body(CompleteUpload)],
    request: Request,
    parts: PartsDep,
    caller: CallerDep,
) -> Upload:
    """Make the listed parts a file, in that order; no byte of them is copied.

    A large file without `md5` is `uploaded` at first and `processed` once its content was read.
    """
    repeated = request.headers.get("x-stainless-retry-count", "0") not in ("", "0")
    return await to_thread.run_sync(
        _complete_once, parts, caller, upload_id, body, repeated, limiter=parts.readers[caller.project_id]
    )


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, parts: PartsDep, caller: CallerDep) -> Upload:
    """Give an upload up; 400 when it has ended already. Any body is ignored, because SDKs send none or `{}`."""
    with parts.db.transaction() as tx:
        return Upload.of(uploads.cancel(tx, caller.project_id, upload_id))


def _shown(tx: Tx, upload: UploadRecord) -> Upload:
    file = files.find(tx, upload.file_id) if upload.file_id else None
    return Upload.of(upload, file)


def _record_part(parts: Parts, caller: Caller, upload_id: str, part_id: str, size: int) -> PartRecord:
    object_key = uploads.part_key(upload_id, part_id)
    try:
        with parts.db.transaction() as tx:
            return uploads.add_part(tx, caller.project_id, upload_id, part_id=part_id, size=size, object_key=object_key)
    except InvalidRequest:  # of a database that went away nobody knows whether it kept the row; the sweep will
        discard(parts.store, object_key)
        raise


def _complete_once(parts: Parts, caller: Caller, upload_id: str, body: CompleteUpload, repeated: bool) -> Upload:
    asked = hashlib.sha256(json.dumps([body.part_ids, body.md5]).encode()).hexdigest()
    try:
        with parts.db.read() as tx:
            upload = uploads.get_pending(tx, caller.project_id, upload_id)
            chosen = uploads.choose(tx, upload, body.part_ids)
        return Upload.of(*_complete(parts, upload, chosen, body.md5, asked))
    except InvalidRequest:
        # The answer to the first attempt was lost, or it was still at work when this one began: the file is there, and
        # refusing would have it sent again.
        with parts.db.read() as tx:
            upload = uploads.get(tx, caller.project_id, upload_id)
            if repeated and upload.completed_by == asked:
                return _shown(tx, upload)
        raise


def _complete(
    parts: Parts, upload: UploadRecord, chosen: list[PartRecord], md5: str | None, asked: str
) -> tuple[UploadRecord, FileRecord]:
    file_id = ids.new("file-")
    object_key = uploads.file_key(upload.id, file_id)
    # Should anything fail from here on, nobody reads the list, and it goes when the upload has ended.
    parts.store.join(object_key, [(part.object_key, part.bytes) for part in chosen])
    found = None
    if md5 is not None or upload.bytes <= INSPECT_AT_ONCE_BYTES:
        found = _inspect(parts, upload, object_key, md5)
    with parts.db.transaction() as tx:
        file = files.create(
            tx,
            file_id=file_id,
            project_id=upload.project_id,
            filename=upload.filename,
            purpose=upload.purpose,
            size=upload.bytes,
            sha256=found.sha256 if found else None,
            object_key=object_key,
            check=found.check if found else None,
            expires_after=upload.file_expires_after,
        )
        return uploads.complete(tx, upload, chosen, file, completed_by=asked), file


def _inspect(parts: Parts, upload: UploadRecord, object_key: str, md5: str | None) -> Inspected:
    inspection = Inspection(
        lines=upload.purpose == "fine-tune", md5=md5 is not None, max_line_bytes=parts.settings.max_line_bytes
    )
    for chunk in parts.store.get(object_key):
        inspection.feed(chunk)
    found = inspection.finish()
    if md5 is not None and found.md5 != md5.lower():
        raise InvalidValue(f"The content's MD5 is {found.md5}, but 'md5' says {md5.lower()}.", param="md5")
    return found
