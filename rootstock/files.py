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
from rootstock.evals.records import RunStatus
from rootstock.records import BatchStatus, DataCheck, FileRecord, JobStatus, Page

UPLOAD_PURPOSES = ("fine-tune", "batch", "evals", "user_data")
"""What a client may upload; `fine-tune-results` is written by the trainer only."""

DEFAULT_EXPIRY_SECONDS = {"batch": 30 * 24 * 3600}
"""Purpose -> how long a file lives when its owner does not say; other purposes for ever."""

MAX_FILENAME_CHARS = 255
MIN_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS = 3600, 2_592_000

_STRIPPED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, bidi overrides, lone surrogates, line separators


def create(  # noqa: PLR0913 (one argument per column that a caller decides)
    tx: Tx,
    *,
    file_id: str,
    project_id: str,
    filename: str,
    purpose: str,
    size: int,
    sha256: str | None,
    object_key: str,
    check: DataCheck | None,
    expires_at: float | None = None,
    expires_after: int | None = None,
) -> FileRecord:
    """Record a file whose object is already complete in the store; from here on it exists for clients.

    The status is `processed` even when `check` found faults: they fail the job that uses the file, and clients that
    wait for `processed` would wait for ever. `status_details` tells the first fault early. Without `sha256` the
    content has not been read yet: the status is `uploaded` until `inspected` is called. `expires_after` is in seconds
    from now; without it, files of some purposes expire all the same.
    """
    if expires_after is None and expires_at is None:
        expires_after = DEFAULT_EXPIRY_SECONDS.get(purpose)
    row = tx.execute(
        tables.files.insert()
        .values(
            id=file_id,
            project_id=project_id,
            filename=clean_filename(filename),
            purpose=purpose,
            bytes=size,
            object_key=object_key,
            created_at=db.now(),
            expires_at=expires_at if expires_after is None else db.now() + expires_after,
            **({"sha256": "", "status": "uploaded"} if sha256 is None else _findings(sha256, check)),
        )
        .returning(tables.files)
    ).one()
    return _record(row)


def inspected(tx: Tx, file_id: str, sha256: str, check: DataCheck | None) -> None:
    """Record what was found in a file that is still `uploaded`; does nothing to any other."""
    _settle(tx, file_id, _findings(sha256, check))


def lost(tx: Tx, file_id: str, details: str) -> None:
    """Give up a file that is still `uploaded`: its content cannot be had any more; does nothing to any other."""
    _settle(tx, file_id, {"status": "error", "status_details": details})


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


def find(tx: Tx, file_id: str) -> FileRecord:
    """The file that a row of ours names, deleted or not: for the parts that repair, never for a request."""
    return _record(tx.execute(sa.select(tables.files).where(tables.files.c.id == file_id)).one())


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
    """Deleted or expired files whose objects may be removed now: nothing that is still alive reads them."""
    # By what lives, not by what has ended: the first is few and has an index.
    used = sa.exists().where(
        tables.jobs.c.status.in_([str(status) for status in JobStatus if not status.terminal]),
        sa.or_(
            tables.jobs.c.training_object == tables.files.c.object_key,
            tables.jobs.c.validation_object == tables.files.c.object_key,
            tables.jobs.c.rootstock[("replay", "object")].as_string() == tables.files.c.object_key,
        ),
    )
    read = sa.exists().where(
        tables.batches.c.status.in_([str(status) for status in BatchStatus if not status.terminal]),
        tables.batches.c.input_object == tables.files.c.object_key,
    )
    graded = sa.exists().where(
        tables.eval_runs.c.status.in_([str(status) for status in RunStatus if not status.terminal]),
        tables.eval_runs.c.input_object == tables.files.c.object_key,
    )
    distilled = sa.exists().where(
        tables.distillations.c.status == "queued",  # later ones have their prompts in rows
        tables.distillations.c.source_object == tables.files.c.object_key,
    )
    gone = sa.or_(tables.files.c.deleted_at.is_not(None), tables.files.c.expires_at <= db.now())
    may_go = sa.and_(  # in the words of the index that holds only these
        tables.files.c.purged_at.is_(None),
        sa.or_(tables.files.c.deleted_at.is_not(None), tables.files.c.expires_at.is_not(None)),
    )
    query = sa.select(tables.files).where(may_go, gone, ~used, ~read, ~distilled, ~graded)
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


def check_extension(filename: str, purpose: str, param: str = "file") -> None:
    """Refuse a fine-tune file that says it is something else; a name without extension (SDK: `upload`) may pass.

    Raises `InvalidRequest` with the live service's text.
    """
    extension = os.path.splitext(clean_filename(filename))[1]
    if purpose == "fine-tune" and extension.lower() not in ("", ".jsonl"):
        raise InvalidRequest("Invalid file format for Fine-Tuning API. Must be .jsonl", param=param)


def _findings(sha256: str, check: DataCheck | None) -> dict[str, Any]:
    return {
        "sha256": sha256,
        "status": "processed",
        "status_details": check.faults[0].message if check and check.faults else None,
        "check": check_to_json(check) if check else None,
    }


def _settle(tx: Tx, file_id: str, values: dict[str, Any]) -> None:
    open_ = [tables.files.c.id == file_id, tables.files.c.status == "uploaded"]
    tx.execute(tables.files.update().where(*open_).values(**values))


def _alive() -> list[sa.ColumnElement[bool]]:
    return [
        tables.files.c.deleted_at.is_(None),
        sa.or_(tables.files.c.expires_at.is_(None), tables.files.c.expires_at > db.now()),
    ]


def _record(row: sa.Row[Any]) -> FileRecord:
    return FileRecord(**row._mapping)
