"""Uploads in parts: their rows and rules, from creation to the file they become. Knows nothing about bytes or HTTP.

An upload is `pending` until exactly one of three things happens to it: `complete`, `cancel` or the sweep's `expire`,
each one compare-and-set. Everything that belongs to an upload lies in its own folder of the store; when it has ended,
whatever no row names in there is garbage.
"""

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from rootstock import db, files, ids, tables
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, InvalidValue, UploadNotFound
from rootstock.records import FileRecord, PartRecord, UploadRecord
from rootstock.storage.base import JOINED

LIFETIME_SECONDS = 3600
"""An upload that is not completed by then takes no more parts."""

GRACE_SECONDS = 600
"""An upload is closed this much later only, because a completion that was asked for in time may take a while."""

MAX_PART_BYTES = 64 * 1024 * 1024
MAX_PARTS = 10_000

JSONL_TYPES = ("text/jsonl", "application/jsonl", "application/json", "application/octet-stream", "text/plain")
"""What clients call JSONL files; there is no registered type."""

_JSONL_PURPOSES = ("fine-tune", "batch", "evals")
_MIME_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)


def create(
    tx: Tx,
    *,
    project_id: str,
    filename: str,
    purpose: str,
    mime_type: str,
    size: int,
    file_expires_after: int | None,
) -> UploadRecord:
    """Begin an upload of `size` bytes. Raises `InvalidRequest` for what could not become a file of this purpose."""
    files.check_purpose(purpose)
    files.check_extension(filename, purpose, param="filename")
    _check_mime_type(mime_type, purpose)
    row = tx.execute(
        tables.uploads.insert()
        .values(
            id=ids.new("upload_"),
            project_id=project_id,
            filename=files.clean_filename(filename),
            purpose=purpose,
            mime_type=mime_type,
            bytes=size,
            status="pending",
            file_expires_after=file_expires_after,
            created_at=db.now(),
            expires_at=db.now() + LIFETIME_SECONDS,
        )
        .returning(tables.uploads)
    ).one()
    return _record(row)


def get(tx: Tx, project_id: str, upload_id: str) -> UploadRecord:
    """The project's upload, whatever its status. Raises `UploadNotFound`."""
    row = None
    if ids.is_plain(upload_id):
        row = tx.execute(sa.select(tables.uploads).where(*_is(project_id, upload_id))).one_or_none()
    if row is None:
        raise UploadNotFound(upload_id)
    return _record(row)


def get_pending(tx: Tx, project_id: str, upload_id: str, *, lock: bool = False) -> UploadRecord:
    """The upload, if it still takes parts; with `lock` nothing can end it before this transaction does.

    Raises `UploadNotFound`, or `InvalidRequest` when it has ended.
    """
    upload = get(tx, project_id, upload_id)
    query = sa.select(tables.uploads).where(*_is(project_id, upload_id), *_in_time())
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise _ended(tx, upload)
    return _record(row)


def add_part(tx: Tx, project_id: str, upload_id: str, *, part_id: str, size: int, object_key: str) -> PartRecord:
    """Record a part whose object is already complete in the store.

    Raises `UploadNotFound`, or `InvalidRequest` when the upload has ended or has been sent far too much: then the
    object is the caller's to remove.
    """
    upload = get_pending(tx, project_id, upload_id, lock=True)
    mine = tables.upload_parts.c.upload_id == upload_id
    count, stored = tx.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(tables.upload_parts.c.bytes), 0)).where(mine)
    ).one()
    if count >= MAX_PARTS:
        raise InvalidRequest(f"Upload {upload_id} has {MAX_PARTS} parts already; send larger ones.", param="data")
    # Twice, because a part whose answer got lost is sent again and both are kept until the upload ends.
    if stored + size > 2 * upload.bytes + MAX_PART_BYTES:
        raise InvalidRequest(
            f"The parts hold far more than the {upload.bytes} bytes that upload {upload_id} was declared with.",
            param="data",
        )
    row = tx.execute(
        tables.upload_parts.insert()
        .values(id=part_id, upload_id=upload_id, bytes=size, object_key=object_key, created_at=db.now())
        .returning(tables.upload_parts)
    ).one()
    return PartRecord(**row._mapping)


def choose(tx: Tx, upload: UploadRecord, part_ids: Sequence[str]) -> list[PartRecord]:
    """The named parts in that order. Raises `InvalidRequest` (param `part_ids`) if they are not the whole upload."""
    query = sa.select(tables.upload_parts).where(tables.upload_parts.c.upload_id == upload.id)
    known = {row.id: PartRecord(**row._mapping) for row in tx.execute(query)}
    chosen: dict[str, PartRecord] = {}
    for part_id in part_ids:
        if part_id not in known:
            raise InvalidValue(f"Upload {upload.id} has no part '{part_id[:64]}'.", param="part_ids")
        if part_id in chosen:
            raise InvalidValue(f"Part '{part_id}' is listed more than once.", param="part_ids")
        chosen[part_id] = known[part_id]
    total = sum(part.bytes for part in chosen.values())
    if total != upload.bytes:
        raise InvalidRequest(
            f"The listed parts hold {total} bytes, but the upload was declared with {upload.bytes} bytes.",
            param="part_ids",
        )
    return list(chosen.values())


def complete(
    tx: Tx,
    upload: UploadRecord,
    parts: Sequence[PartRecord],
    file: FileRecord,
    *,
    completed_by: str,
) -> UploadRecord:
    """Turn a pending upload into the `file` that was just created from these parts; every other part is garbage.

    Raises `InvalidRequest` when it has ended meanwhile; then this transaction must not be committed.
    """
    done = _end(
        tx,
        upload.id,
        "completed",
        file_id=file.id,
        completed_by=completed_by,
        inspect_after=db.now() if file.status == "uploaded" else None,
    )
    if done is None:
        raise _ended(tx, upload)
    unused = tables.upload_parts.c.id.not_in([part.id for part in parts])
    tx.execute(tables.upload_parts.delete().where(tables.upload_parts.c.upload_id == upload.id, unused))
    return done


def cancel(tx: Tx, project_id: str, upload_id: str) -> UploadRecord:
    """End an upload at its owner's wish. Raises `UploadNotFound`, or `InvalidRequest` when it has ended already."""
    upload = get(tx, project_id, upload_id)
    done = _end(tx, upload_id, "cancelled", *_in_time())
    if done is None:
        raise _ended(tx, upload)
    _forget_parts(tx, [upload_id])
    return done


def expire(tx: Tx, limit: int) -> int:
    """End uploads that nobody completed; how many there were."""
    late = sa.select(tables.uploads.c.id).where(
        tables.uploads.c.purged_at.is_(None),
        tables.uploads.c.status == "pending",
        tables.uploads.c.expires_at <= db.now() - GRACE_SECONDS,
    )
    ended = [upload_id for upload_id in tx.scalars(late.limit(limit)).all() if _end(tx, upload_id, "expired")]
    _forget_parts(tx, ended)
    return len(ended)


def purgeable(tx: Tx, limit: int) -> list[UploadRecord]:
    """Uploads that have ended and whose folder may still hold garbage."""
    query = sa.select(tables.uploads).where(
        tables.uploads.c.purged_at.is_(None), tables.uploads.c.status.in_(["completed", "cancelled", "expired"])
    )
    return [_record(row) for row in tx.execute(query.order_by(tables.uploads.c.seq).limit(limit))]


def kept_objects(tx: Tx, upload: UploadRecord) -> set[str]:
    """The keys in the folder of an ended upload that are no garbage: its file's and that file's parts."""
    parts = sa.select(tables.upload_parts.c.object_key).where(tables.upload_parts.c.upload_id == upload.id)
    file = sa.select(tables.files.c.object_key).where(tables.files.c.id == upload.file_id)
    return {*tx.scalars(parts), *tx.scalars(file)}


def mark_purged(tx: Tx, upload_id: str) -> None:
    """Record that nothing but its file is left of this ended upload."""
    tx.execute(tables.uploads.update().where(tables.uploads.c.id == upload_id).values(purged_at=db.now()))


def claim_inspection(tx: Tx, lease_seconds: float) -> UploadRecord | None:
    """Take a completed upload whose file is to be read, so that nobody else does for `lease_seconds`; or `None`."""
    due = tables.uploads.c.inspect_after <= db.now()
    first = sa.select(tables.uploads.c.id).where(due).order_by(tables.uploads.c.inspect_after).limit(1)
    upload_id = tx.scalar(first.with_for_update(skip_locked=True))
    return _set_inspection(tx, upload_id, [due], db.now() + lease_seconds) if upload_id else None


def renew_inspection(tx: Tx, upload_id: str, lease_seconds: float) -> None:
    """Keep what `claim_inspection` gave; with 0 hand it back."""
    _set_inspection(tx, upload_id, [tables.uploads.c.inspect_after.is_not(None)], db.now() + lease_seconds)


def end_inspection(tx: Tx, upload_id: str) -> None:
    """There is nothing left to read."""
    _set_inspection(tx, upload_id, [], None)


def folder(upload_id: str) -> str:
    """Where everything of an upload lies in the store."""
    return f"uploads/{upload_id}/"


def part_key(upload_id: str, part_id: str) -> str:
    """The object of a part."""
    return folder(upload_id) + part_id


def file_key(upload_id: str, file_id: str) -> str:
    """The joined object of the file that an upload becomes."""
    return folder(upload_id) + file_id + JOINED


def _check_mime_type(mime_type: str, purpose: str) -> None:
    kind = mime_type.partition(";")[0].strip().lower()
    if purpose in _JSONL_PURPOSES and kind not in JSONL_TYPES:
        accepted = ", ".join(repr(known) for known in JSONL_TYPES)
        text = f"'{mime_type[:64]}' is not a MIME type for the purpose '{purpose}'; use one of {accepted}."
        raise InvalidValue(text, param="mime_type")
    if not _MIME_TYPE.fullmatch(kind):
        raise InvalidValue(f"'{mime_type[:64]}' is not a MIME type.", param="mime_type")


def _end(tx: Tx, upload_id: str, status: str, *where: sa.ColumnElement[bool], **values: Any) -> UploadRecord | None:
    """The one way out of `pending`; `None` for an upload that was not."""
    pending = [tables.uploads.c.id == upload_id, tables.uploads.c.status == "pending", *where]
    change = tables.uploads.update().where(*pending).values(status=status, **values).returning(tables.uploads)
    row = tx.execute(change).one_or_none()
    return _record(row) if row else None


def _ended(tx: Tx, upload: UploadRecord) -> InvalidRequest:
    now = get(tx, upload.project_id, upload.id)
    status = "expired" if now.status == "pending" else now.status
    return InvalidRequest(f"Upload {upload.id} is no longer pending: its status is '{status}'.", param="upload_id")


def _forget_parts(tx: Tx, upload_ids: Sequence[str]) -> None:
    tx.execute(tables.upload_parts.delete().where(tables.upload_parts.c.upload_id.in_(upload_ids)))


def _set_inspection(
    tx: Tx, upload_id: str, where: Sequence[sa.ColumnElement[bool]], value: sa.ColumnElement[float] | None
) -> UploadRecord | None:
    change = tables.uploads.update().where(tables.uploads.c.id == upload_id, *where).values(inspect_after=value)
    row = tx.execute(change.returning(tables.uploads)).one_or_none()
    return _record(row) if row else None


def _is(project_id: str, upload_id: str) -> list[sa.ColumnElement[bool]]:
    return [tables.uploads.c.project_id == project_id, tables.uploads.c.id == upload_id]


def _in_time() -> list[sa.ColumnElement[bool]]:
    return [tables.uploads.c.status == "pending", tables.uploads.c.expires_at > db.now()]


def _record(row: sa.Row[Any]) -> UploadRecord:
    return UploadRecord(**row._mapping)
