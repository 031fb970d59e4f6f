"""Files that are read after their upload was answered: what is found, what a crash or a lost object leads to."""

import hashlib
from pathlib import Path

import pytest

from rootstock import datasets, files, ids, jobs, tables, uploads
from rootstock.db import Database
from rootstock.errors import ObjectNotFound, StoreError
from rootstock.inspection import Inspection, Inspector
from rootstock.records import DataFormat, FileRecord, JobRecord, JobStatus
from rootstock.settings import Settings
from rootstock.storage import LocalStore
from rootstock.sweep import Sweep
from tests.rootstock import making
from tests.rootstock.test_sweep import Bell, new_sweep

ROW = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def inspector(database: Database, store: LocalStore) -> Inspector:
    return Inspector(database, store, Settings())


@pytest.fixture
def sweep(database: Database, store: LocalStore) -> Sweep:
    return new_sweep(database, store, Bell())


def completed(database: Database, store: LocalStore, *contents: bytes, purpose: str = "fine-tune") -> FileRecord:
    """A file put together from parts whose content nobody has read yet."""
    with database.transaction() as tx:
        upload = uploads.create(
            tx,
            project_id=making.project(tx),
            filename="train.jsonl",
            purpose=purpose,
            mime_type="text/jsonl",
            size=sum(map(len, contents)),
            file_expires_after=None,
        )
        parts = []
        for content in contents:
            part_id = ids.new("part_")
            key = uploads.part_key(upload.id, part_id)
            store.put_bytes(key, content)
            parts.append(
                uploads.add_part(tx, upload.project_id, upload.id, part_id=part_id, size=len(content), object_key=key)
            )
        file_id = ids.new("file-")
        key = uploads.file_key(upload.id, file_id)
        store.join(key, [(part.object_key, part.bytes) for part in parts])
        file = files.create(
            tx,
            file_id=file_id,
            project_id=upload.project_id,
            filename=upload.filename,
            purpose=purpose,
            size=upload.bytes,
            sha256=None,
            object_key=key,
            check=None,
        )
        uploads.complete(tx, upload, parts, file, completed_by="x")
    return file


def look(database: Database, file: FileRecord) -> FileRecord:
    with database.read() as tx:
        return files.find(tx, file.id)


def submit(database: Database, file: FileRecord) -> JobRecord:
    with database.transaction() as tx:
        return making.submit(tx, training=file)


def test_digests_and_lines_are_those_of_the_content() -> None:
    inspection = Inspection(lines=True, md5=True, max_line_bytes=1 << 20)
    for byte in ROW * 2:
        inspection.feed(bytes([byte]))
    found = inspection.finish()
    assert found.sha256 == hashlib.sha256(ROW * 2).hexdigest()
    assert found.md5 == hashlib.md5(ROW * 2).hexdigest()
    assert found.check is not None and (found.check.format, found.check.examples) == (DataFormat.CHAT, 2)
    nothing = Inspection(lines=False, md5=False, max_line_bytes=1 << 20).finish()
    assert (nothing.md5, nothing.check) == ("", None)


def test_a_job_waits_for_the_inspection_and_is_judged_by_it(
    database: Database, store: LocalStore, inspector: Inspector, sweep: Sweep
) -> None:
    # The parts cut a line in two.
    good = completed(database, store, (ROW * 12)[:100], (ROW * 12)[100:])
    bad = completed(database, store, ROW * 12, b"{broken\n")
    waiting = {file.id: submit(database, file) for file in (good, bad)}
    assert look(database, good).status == "uploaded"
    assert not any(sweep.judge(job.id) for job in waiting.values())
    assert sweep.run_once()["judge"] == 0
    assert inspector.run_once() and inspector.run_once() and not inspector.run_once()
    found = look(database, good)
    assert (found.status, found.sha256) == ("processed", hashlib.sha256(ROW * 12).hexdigest())
    assert found.check is not None and datasets.check_from_json(found.check).examples == 12
    assert look(database, bad).status == "processed"
    assert "Example 13 cannot be parsed" in str(look(database, bad).status_details)
    assert sweep.run_once()["judge"] == 2
    assert making.look(database, waiting[good.id].id).status is JobStatus.QUEUED
    failed = making.look(database, waiting[bad.id].id)
    assert failed.status is JobStatus.FAILED and failed.error is not None
    assert failed.error["code"] == "invalid_training_file"


def test_jobs_that_wait_for_an_inspection_do_not_keep_others_from_being_judged(
    database: Database, store: LocalStore, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BATCH", 1)
    submit(database, completed(database, store, ROW))
    with database.transaction() as tx:
        ready = making.submit(tx)
    assert sweep.run_once()["judge"] == 1
    assert making.look(database, ready.id).status is JobStatus.QUEUED


def test_a_deleted_file_is_inspected_for_the_job_that_has_it(
    database: Database, store: LocalStore, inspector: Inspector, sweep: Sweep
) -> None:
    file = completed(database, store, ROW * 12)
    job = submit(database, file)
    with database.transaction() as tx:
        files.delete(tx, file.project_id, file.id)
    sweep.run_once()
    assert inspector.run_once()
    sweep.run_once()
    assert making.look(database, job.id).status is JobStatus.QUEUED


def test_other_purposes_only_get_a_digest(database: Database, store: LocalStore, inspector: Inspector) -> None:
    file = completed(database, store, b"no JSON", purpose="batch")
    assert inspector.run_once()
    found = look(database, file)
    assert (found.status, found.check, found.sha256) == ("processed", None, hashlib.sha256(b"no JSON").hexdigest())


def test_a_lost_content_ends_the_waiting(
    database: Database, store: LocalStore, inspector: Inspector, sweep: Sweep
) -> None:
    file = completed(database, store, ROW, ROW)
    job = submit(database, file)
    store.delete(file.object_key)
    assert inspector.run_once() and not inspector.run_once()
    assert look(database, file).status == "error"
    sweep.run_once()
    failed = making.look(database, job.id)
    assert failed.status is JobStatus.FAILED and failed.error is not None
    assert failed.error["param"] == "training_file" and "no longer stored" in failed.error["message"]


class Dying(LocalStore):
    """Breaks off after the first chunk."""

    error: Exception = StoreError("away")

    def get(self, key: str):
        yield next(super().get(key))
        raise self.error


def test_what_a_dead_process_left_half_read_is_read_again(
    database: Database, store: LocalStore, inspector: Inspector
) -> None:
    file = completed(database, store, ROW * 12)
    with pytest.raises(StoreError):
        Inspector(database, Dying(store.root), Settings()).run_once()
    assert not inspector.run_once(), "its lease still runs"
    with database.transaction() as tx:
        tx.execute(tables.uploads.update().values(inspect_after=1.0))
    assert inspector.run_once()
    assert look(database, file).status == "processed"


def test_a_process_that_stops_hands_its_inspection_back(
    database: Database, store: LocalStore, inspector: Inspector
) -> None:
    file = completed(database, store, ROW * 12)
    inspector.stop()
    assert not inspector.run_once()
    assert look(database, file).status == "uploaded"
    assert Inspector(database, store, Settings()).run_once()


def test_ended_uploads_are_purged_down_to_their_file(
    database: Database, store: LocalStore, sweep: Sweep, inspector: Inspector
) -> None:
    file = completed(database, store, b"a", b"b")
    folder = file.object_key.rpartition("/")[0]
    store.put_bytes(f"{folder}/part_that_no_row_names", b"x")
    store.join(f"{folder}/file-loser.joined", [(key, 1) for key in store.list(folder) if "part_" in key])
    assert sweep.run_once()["purge_upload"] == 1
    assert store.get_bytes(file.object_key) == b"ab" and len(store.list(folder)) == 3
    assert sweep.run_once()["purge_upload"] == 0
    with database.transaction() as tx:
        files.delete(tx, file.project_id, file.id)
    assert sweep.run_once()["purge_file"] == 1
    assert store.list("") == []
    assert inspector.run_once(), "there was still something to read"
    with pytest.raises(ObjectNotFound):
        store.get(file.object_key)


def test_an_abandoned_upload_leaves_nothing(database: Database, store: LocalStore, sweep: Sweep) -> None:
    with database.transaction() as tx:
        upload = uploads.create(
            tx,
            project_id=making.project(tx),
            filename="a.jsonl",
            purpose="batch",
            mime_type="text/jsonl",
            size=1,
            file_expires_after=None,
        )
        key = uploads.part_key(upload.id, "part_1")
        store.put_bytes(key, b"x")
        uploads.add_part(tx, upload.project_id, upload.id, part_id="part_1", size=1, object_key=key)
    assert sweep.run_once()["expire_upload"] == 0
    with database.transaction() as tx:
        tx.execute(tables.uploads.update().values(expires_at=1.0))
    counts = sweep.run_once()
    assert (counts["expire_upload"], counts["purge_upload"]) == (1, 1)
    assert store.list("") == []
