"""File rows and their rules: names, purposes, expiry, deletion. Knows nothing about bytes, stores or HTTP.

The bytes lie in the object store under `object_key`. Deleting marks the row; the sweep removes the object later, when
no job that is still alive reads it.
"""

import os.path
import unicodedata
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, paging, tables
from rootstock.datasets import check_to_json
from rootstock.db import Tx
from rootstock.errors import FileNotFound, InvalidRequest, InvalidValue
from rootstock.records import BatchStatus, DataCheck, FileRecord, JobStatus, Page

UPLOAD_PURPOSES = ("fine-tune", "batch", "evals", "user_data")
"""What a client may upload; `fine-tune-results` is written by the trainer only."""

DEFAULT_EXPIRY_SECONDS = {"batch": 30 * 24 * 3600}
"""Purpose -> how long a file lives when its owner does not say; other purposes for ever."""

MAX_FILENAME_CHARS = 255

_STRIPPED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, bidi overrides, lone surrogates, line separators


def create(
    tx: Tx,
    *,
    file_id: str,
    project_id: str,
    filename: str,
    purpose: str,
    size: int,
    sha256: str,
    object_key: str,
    check: DataCheck | None,
    expires_at: float | None = None,
) -> FileRecord:
    """Record a file whose object is already complete in the store; from here on it exists for clients.

    The status is `processed` even when `check` found faults: they fail the job that uses the file, and clients that
    wait for `processed` would wait for ever. `status_details` tells the first fault early.
    """
    row = tx.execute(
        tables.files.insert()
        .values(
            id=file_id,
            project_id=project_id,
            filename=clean_filename(filename),
            purpose=purpose,
            bytes=size,
            sha256=sha256,
            object_key=object_key,
            status="processed",
            status_details=check.faults[0].message if check and check.faults else None,
            check=check_to_json(check) if check else None,
            created_at=db.now(),
            expires_at=expires_at,
        )
        .returning(tables.files)
    ).one()
    return _record(row)


def get(tx: Tx, project_id: str, file_id: str, *, lock: bool = False) -> FileRecord:
    """The file, if this project has it and it is neither deleted nor expired.

    With `lock` a concurrent `delete` waits until this transaction ends: take it when creating a job, so that the
    sweep sees either the job or no file.

    Raises `FileNotFound`.
    """
    row = None
    if ids.is_plain(file_id):
        query = sa.select(tables.files).where(
            tables.files.c.project_id == project_id, tables.files.c.id == file_id, *_alive()
        )
        row = tx.execute(query.with_for_update(read=True) if lock else query).one_or_none()
    if row is None:
        raise FileNotFound(file_id)
    return _record(row)


def list_page(
    tx: Tx,
    project_id: str,
    *,
    purpose: str | None = None,
    limit: int = 10_000,
    order: paging.Order = "desc",
    after: str | None = None,
) -> Page[FileRecord]:
    """A page of the project's files by time of creation.

    Raises `InvalidValue` (param `after`) for a cursor that never was a file of this project.
    """
    if purpose is not None and not ids.is_plain(purpose):
        return Page()
    return paging.page(
        tx,
        tables.files,
        [tables.files.c.project_id == project_id],
        shown=[*_alive(), *([tables.files.c.purpose == purpose] if purpose is not None else [])],
        order=order,
        limit=limit,
        after=after,
        build=_record,
    )


def delete(tx: Tx, project_id: str, file_id: str) -> None:
    """Hide the file for ever; jobs that already name it keep its object until they end.

    Raises `FileNotFound`, also on the second call.
    """
    changed = 0
    if ids.is_plain(file_id):
        changed = tx.execute(
            tables.files.update()
            .where(tables.files.c.project_id == project_id, tables.files.c.id == file_id, *_alive())
            .values(deleted_at=db.now())
        ).rowcount
    if not changed:
        raise FileNotFound(file_id)


def purgeable(tx: Tx, limit: int) -> list[FileRecord]:
    """Deleted or expired files whose objects may be removed now: no job or batch that is still alive reads them."""
    terminal = [str(status) for status in JobStatus if status.terminal]
    ended = [str(status) for status in BatchStatus if status.terminal]
    used = sa.exists().where(
        tables.jobs.c.status.not_in(terminal),
        sa.or_(
            tables.jobs.c.training_object == tables.files.c.object_key,
            tables.jobs.c.validation_object == tables.files.c.object_key,
        ),
    )
    read = sa.exists().where(
        tables.batches.c.status.not_in(ended), tables.batches.c.input_object == tables.files.c.object_key
    )
    gone = sa.or_(tables.files.c.deleted_at.is_not(None), tables.files.c.expires_at <= db.now())
    query = sa.select(tables.files).where(gone, tables.files.c.purged_at.is_(None), ~used, ~read)
    return [_record(row) for row in tx.execute(query.order_by(tables.files.c.seq).limit(limit))]


def mark_purged(tx: Tx, file_id: str) -> None:
    """Record that the object of this deleted file is gone from the store."""
    tx.execute(tables.files.update().where(tables.files.c.id == file_id).values(purged_at=db.now()))


def clean_filename(name: str) -> str:
    """What is kept of a client's file name: the last path segment, without control characters, at most 255 long.

    Example: `clean_filename("../../etc/pass\\nwd.jsonl")` is `"passwd.jsonl"`; nothing left is `"upload"`.
    """
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    base = "".join(c for c in base if unicodedata.category(c) not in _STRIPPED_CATEGORIES).strip()
    if len(base) > MAX_FILENAME_CHARS:
        stem, extension = os.path.splitext(base)
        base = stem[: MAX_FILENAME_CHARS - len(extension)] + extension if len(extension) < 16 else base
        base = base[:MAX_FILENAME_CHARS]
    return "upload" if base in ("", ".", "..") else base


def check_purpose(purpose: str) -> None:
    """Refuse a purpose that a client may not upload for.

    Raises `InvalidValue` (param `purpose`) listing those that exist.
    """
    if purpose not in UPLOAD_PURPOSES:
        accepted = ", ".join(repr(known) for known in UPLOAD_PURPOSES)
        raise InvalidValue(f"'{purpose[:64]}' is not one of the accepted purposes: {accepted}.", param="purpose")


def check_extension(filename: str, purpose: str) -> None:
    """Refuse a fine-tune file that says it is something else; a name without extension (SDK: `upload`) may pass.

    Raises `InvalidRequest` with the live service's text.
    """
    extension = os.path.splitext(clean_filename(filename))[1]
    if purpose == "fine-tune" and extension.lower() not in ("", ".jsonl"):
        raise InvalidRequest("Invalid file format for Fine-Tuning API. Must be .jsonl", param="file")


def _alive() -> list[sa.ColumnElement[bool]]:
    return [
        tables.files.c.deleted_at.is_(None),
        sa.or_(tables.files.c.expires_at.is_(None), tables.files.c.expires_at > db.now()),
    ]


def _record(row: sa.Row[Any]) -> FileRecord:
    return FileRecord(**row._mapping)
