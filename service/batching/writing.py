"""The two files that a batch leaves: their lines, and how they get into the store. Knows no model."""

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rootstock import batches, files, ids
from rootstock.db import Tx
from rootstock.records import BatchRecord
from rootstock.storage import Store

PURPOSE = "batch_output"


@dataclass(frozen=True, slots=True)
class Written:
    """A file whose object is in the store and whose row is not there yet."""

    id: str
    filename: str
    bytes: int
    sha256: str

    @property
    def object_key(self) -> str:
        """Where its object lies."""
        return f"files/{self.id}"


def answered(custom_id: str, status: int, body: dict[str, Any]) -> str:
    """A line for a request that was put to the model, whatever came of it."""
    response = {"status_code": status, "request_id": f"req_{secrets.token_hex(16)}", "body": body}
    return _line(custom_id, response, None)


def never_asked(custom_id: str, *, cancelled: bool) -> str:
    """A line for a request that was not put to the model in time."""
    if cancelled:
        error = {"code": "batch_cancelled", "message": "This request was not executed before the batch was cancelled."}
    else:
        text = "This request could not be executed before the completion window expired."
        error = {"code": "batch_expired", "message": text}
    return _line(custom_id, None, error)


def store_lines(store: Store, batch: BatchRecord, kind: str, lines: Iterable[str]) -> Written | None:
    """Store the lines as the batch's file of this kind (`output`, `error`); `None` when there are none."""
    file_id = batches.file_id(batch.id, kind)
    digest, size = hashlib.sha256(), 0
    with store.writer(f"files/{file_id}") as sink:
        for line in lines:
            data = line.encode() + b"\n"
            sink.write(data)
            digest.update(data)
            size += len(data)
        if not size:
            sink.abort()
            return None
    return Written(file_id, f"{batch.id}_{kind}.jsonl", size, digest.hexdigest())


def record(tx: Tx, batch: BatchRecord, written: Written) -> None:
    """The file's row: from here on it exists for its owner."""
    files.create(
        tx,
        file_id=written.id,
        project_id=batch.project_id,
        filename=written.filename,
        purpose=PURPOSE,
        size=written.bytes,
        sha256=written.sha256,
        object_key=written.object_key,
        check=None,
        expires_after=batch.output_expires_after,
    )


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> str:
    # ASCII only: some clients split at U+2028 too, and an engine may hand out half a surrogate pair.
    line = {"id": ids.new("batch_req_"), "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(line, separators=(",", ":"))
