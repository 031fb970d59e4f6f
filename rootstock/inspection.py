"""Reading a file's content once: digests, and for training data the check of its lines. Knows no HTTP.

`Inspection` is fed by whoever has the bytes in hand. `Inspector` reads the files that were completed without that: a
large upload in parts is recorded as `uploaded` and inspected afterwards, by whichever API process takes it first.
"""

import hashlib
import logging
import threading
import time
from dataclasses import dataclass

from rootstock import files, uploads
from rootstock.datasets import Checker
from rootstock.db import Database
from rootstock.errors import ObjectNotFound
from rootstock.records import DataCheck, FileRecord, UploadRecord
from rootstock.settings import Settings
from rootstock.storage import Store

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""An inspection whose process was not heard of for this long begins anew elsewhere."""

RENEW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a content is."""

    sha256: str
    md5: str
    check: DataCheck | None


class Inspection:
    """Feed it a file in chunks, then `finish()`. Memory is bounded as the `Checker`'s is.

    Example: `inspection = Inspection(lines=True, md5=False, max_line_bytes=1 << 20)`; without `lines` there will be no
    check, without `md5` that digest stays empty.
    """

    def __init__(self, *, lines: bool, md5: bool, max_line_bytes: int) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._checker = Checker(max_line_bytes) if lines else None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes. Never raises, whatever they are."""
        self._sha256.update(chunk)
        if self._md5 is not None:
            self._md5.update(chunk)
        if self._checker is not None:
            self._checker.feed(chunk)

    def finish(self) -> Inspected:
        """What was found. The inspection is used up."""
        md5 = self._md5.hexdigest() if self._md5 is not None else ""
        return Inspected(self._sha256.hexdigest(), md5, self._checker.finish() if self._checker else None)


class Inspector:
    """Inspects files that wait for it, one at a time. A process that dies meanwhile loses nothing but the work.

    Example: `while inspector.run_once(): pass`.
    """

    def __init__(self, database: Database, store: Store, settings: Settings) -> None:
        self._db = database
        self._store = store
        self._max_line_bytes = settings.max_line_bytes
        self._stopping = threading.Event()

    def run_once(self) -> bool:
        """Inspect the next file; false when none waits. Raises `StoreError` when the store is away: try again later."""
        with self._db.transaction() as tx:
            upload = uploads.claim_inspection(tx, LEASE_SECONDS)
        if upload is None:
            return False
        with self._db.read() as tx:
            file = files.find(tx, str(upload.file_id))
        try:
            found = self._read(upload, file)
        except ObjectNotFound as error:
            log.warning("the content of %s is gone: %s", file.id, error.message)
            with self._db.transaction() as tx:
                files.lost(tx, file.id, "The file's content is no longer stored. Upload it again.")
                uploads.end_inspection(tx, upload.id)
            return True
        with self._db.transaction() as tx:
            if found is None:
                uploads.renew_inspection(tx, upload.id, 0.0)
                return False
            files.inspected(tx, file.id, found.sha256, found.check)
            uploads.end_inspection(tx, upload.id)
        return True

    def stop(self) -> None:
        """Hand back what is being read, at the next chunk."""
        self._stopping.set()

    def _read(self, upload: UploadRecord, file: FileRecord) -> Inspected | None:
        inspection = Inspection(lines=file.purpose == "fine-tune", md5=False, max_line_bytes=self._max_line_bytes)
        renewed = time.monotonic()
        for chunk in self._store.get(file.object_key):
            if self._stopping.is_set():
                return None
            inspection.feed(chunk)
            if time.monotonic() - renewed > RENEW_SECONDS:
                with self._db.transaction() as tx:
                    uploads.renew_inspection(tx, upload.id, LEASE_SECONDS)
                renewed = time.monotonic()
        return inspection.finish()
