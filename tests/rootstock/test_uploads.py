"""Uploads in parts through `rootstock.uploads`: rules, scope, and what concurrent endings never do to each other."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import db, files, ids, keys, tables, uploads
from rootstock.db import Database, Tx
from rootstock.errors import InvalidRequest, InvalidValue, UploadNotFound
from rootstock.records import FileRecord, PartRecord, UploadRecord
from tests.rootstock.rows import add_project

PROJECT = keys.DEFAULT_PROJECT


@pytest.fixture
def tx(any_database: Database) -> Iterator[Tx]:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        yield tx


def begin(tx: Tx, size: int = 10, **values: Any) -> UploadRecord:
    given: dict[str, Any] = {
        "project_id": PROJECT,
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "mime_type": "text/jsonl",
        "size": size,
        "file_expires_after": None,
    }
    return uploads.create(tx, **given | values)


def add(tx: Tx, upload: UploadRecord, size: int = 5) -> PartRecord:
    part_id = ids.new("part_")
    key = uploads.part_key(upload.id, part_id)
    return uploads.add_part(tx, PROJECT, upload.id, part_id=part_id, size=size, object_key=key)


def finish(
    tx: Tx, upload: UploadRecord, parts: list[PartRecord], sha256: str | None = "0" * 64
) -> tuple[UploadRecord, FileRecord]:
    file_id = ids.new("file-")
    file = files.create(
        tx,
        file_id=file_id,
        project_id=PROJECT,
        filename=upload.filename,
        purpose=upload.purpose,
        size=upload.bytes,
        sha256=sha256,
        object_key=uploads.file_key(upload.id, file_id),
        check=None,
    )
    return uploads.complete(tx, upload, parts, file, completed_by="x"), file


def late(tx: Tx, upload: UploadRecord, seconds: float = 1.0) -> None:
    change = tables.uploads.update().where(tables.uploads.c.id == upload.id)
    tx.execute(change.values(expires_at=db.now() - seconds))


def part_ids(tx: Tx, upload: UploadRecord) -> set[str]:
    query = sa.select(tables.upload_parts.c.id).where(tables.upload_parts.c.upload_id == upload.id)
    return set(tx.scalars(query))


def test_an_upload_lives_for_an_hour(tx: Tx) -> None:
    upload = begin(tx, filename="../x/train.jsonl")
    assert (upload.status, upload.filename, upload.file_id) == ("pending", "train.jsonl", None)
    assert abs(upload.expires_at - upload.created_at - 3600) < 1
    assert uploads.get(tx, PROJECT, upload.id) == uploads.get_pending(tx, PROJECT, upload.id) == upload


@pytest.mark.parametrize("mime_type", [*uploads.JSONL_TYPES, "Text/JSONL; charset=utf-8"])
def test_training_data_goes_by_many_mime_types(tx: Tx, mime_type: str) -> None:
    assert begin(tx, mime_type=mime_type).mime_type == mime_type


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"mime_type": "application/pdf"}, "mime_type"),
        ({"mime_type": "jsonl"}, "mime_type"),
        ({"mime_type": "pdf", "purpose": "user_data"}, "mime_type"),
        ({"purpose": "vision"}, "purpose"),
        ({"filename": "train.csv"}, "filename"),
    ],
)
def test_what_could_not_become_a_file_is_refused_at_once(tx: Tx, values: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        begin(tx, **values)
    assert caught.value.param == param
    assert begin(tx, mime_type="application/pdf", purpose="user_data", filename="a.pdf")


@pytest.mark.parametrize("upload_id", ["upload_nope", "None", "", "nul\0", "\ud800", "ü"])
def test_an_unknown_upload_is_not_found(tx: Tx, upload_id: str) -> None:
    for call in (uploads.get, uploads.get_pending, uploads.cancel):
        with pytest.raises(UploadNotFound):
            call(tx, PROJECT, upload_id)


def test_another_projects_upload_reads_like_an_absent_one(tx: Tx) -> None:
    foreign = begin(tx, project_id=add_project(tx, "proj_other"))
    for call in (uploads.get, uploads.get_pending, uploads.cancel):
        with pytest.raises(UploadNotFound):
            call(tx, PROJECT, foreign.id)
    with pytest.raises(UploadNotFound):
        add(tx, foreign)


def test_parts_are_chosen_in_the_order_that_is_asked_for(tx: Tx) -> None:
    upload = begin(tx, size=10)
    first, second, unused = add(tx, upload, 4), add(tx, upload, 6), add(tx, upload, 6)
    assert uploads.choose(tx, upload, [second.id, first.id]) == [second, first]
    done, file = finish(tx, upload, [second, first])
    assert (done.status, done.file_id, done.inspect_after) == ("completed", file.id, None)
    assert part_ids(tx, upload) == {first.id, second.id}
    assert uploads.kept_objects(tx, done) == {first.object_key, second.object_key, file.object_key}
    assert unused.object_key not in uploads.kept_objects(tx, done)


def test_what_is_not_the_whole_upload_cannot_be_completed(tx: Tx) -> None:
    upload, other = begin(tx, size=10), begin(tx, size=10)
    part, foreign = add(tx, upload, 5), add(tx, other, 5)
    wrong: list[tuple[list[str], str]] = [
        ([part.id], "5 bytes, but the upload was declared with 10"),
        ([], "0 bytes"),
        ([part.id, part.id], "more than once"),
        ([part.id, foreign.id], "no part"),
        ([part.id, "nul\0"], "no part"),
    ]
    for listed, reason in wrong:
        with pytest.raises(InvalidRequest, match=reason) as caught:
            uploads.choose(tx, upload, listed)
        assert caught.value.param == "part_ids"


def test_an_upload_that_has_ended_takes_nothing_more(tx: Tx) -> None:
    def complete(upload: UploadRecord) -> None:
        finish(tx, upload, uploads.choose(tx, upload, [add(tx, upload, 10).id]))

    endings: dict[str, Callable[[UploadRecord], object]] = {
        "completed": complete,
        "cancelled": lambda upload: uploads.cancel(tx, PROJECT, upload.id),
        "expired": lambda upload: late(tx, upload),
    }
    for status, end in endings.items():
        upload = begin(tx)
        end(upload)
        calls: list[Callable[[], object]] = [
            lambda upload=upload: uploads.get_pending(tx, PROJECT, upload.id),  # type: ignore[misc]
            lambda upload=upload: add(tx, upload),  # type: ignore[misc]
            lambda upload=upload: uploads.cancel(tx, PROJECT, upload.id),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(InvalidRequest, match=f"status is '{status}'"):
                call()


def test_a_completion_asked_for_in_time_may_end_late(tx: Tx) -> None:
    upload = begin(tx, size=5)
    part = add(tx, upload, 5)
    late(tx, upload)
    assert uploads.expire(tx, 10) == 0
    assert finish(tx, upload, [part])[0].status == "completed"


def test_abandoned_uploads_expire_after_the_grace(tx: Tx) -> None:
    old, new = begin(tx), begin(tx)
    add(tx, old)
    kept = add(tx, new)
    late(tx, old, uploads.GRACE_SECONDS + 1)
    assert uploads.expire(tx, 10) == 1
    assert uploads.expire(tx, 10) == 0
    assert [upload.id for upload in uploads.purgeable(tx, 10)] == [old.id]
    assert uploads.get(tx, PROJECT, old.id).status == "expired"
    assert part_ids(tx, old) == set() and part_ids(tx, new) == {kept.id}
    uploads.mark_purged(tx, old.id)
    assert uploads.purgeable(tx, 10) == []


def test_far_too_much_is_refused_but_a_repeated_part_is_not(tx: Tx, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begin(tx, size=10)
    add(tx, upload, 10)
    add(tx, upload, 10)
    add(tx, upload, uploads.MAX_PART_BYTES)
    with pytest.raises(InvalidRequest, match="far more than the 10 bytes"):
        add(tx, upload, 1)
    monkeypatch.setattr(uploads, "MAX_PARTS", 3)
    with pytest.raises(InvalidRequest, match="3 parts"):
        add(tx, upload, 0)


def test_an_inspection_is_one_processs_until_it_is_silent(tx: Tx) -> None:
    upload = begin(tx, size=5)
    finish(tx, upload, [add(tx, upload)], sha256=None)
    taken = uploads.claim_inspection(tx, 60)
    assert taken is not None and taken.id == upload.id
    assert uploads.claim_inspection(tx, 60) is None
    uploads.renew_inspection(tx, upload.id, 0.0)
    assert uploads.claim_inspection(tx, 60) is not None
    uploads.end_inspection(tx, upload.id)
    uploads.renew_inspection(tx, upload.id, 0.0)
    assert uploads.claim_inspection(tx, 60) is None


def test_of_many_endings_at_once_one_wins_and_no_part_is_lost_or_doubled(any_database: Database) -> None:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")

    for _ in range(5):
        with any_database.transaction() as tx:
            upload = begin(tx, size=10)
            parts = [add(tx, upload, 5), add(tx, upload, 5)]
        go = threading.Barrier(8)

        def attempt(number: int, upload: UploadRecord = upload, parts: list[PartRecord] = parts) -> str:
            go.wait(10)  # noqa: B023
            try:
                with any_database.transaction() as tx:
                    if number < 3:
                        chosen = uploads.choose(tx, uploads.get_pending(tx, PROJECT, upload.id), [p.id for p in parts])
                        return finish(tx, upload, chosen[::-1] if number else chosen)[1].id
                    if number == 3:
                        return uploads.cancel(tx, PROJECT, upload.id).status
                    return add(tx, upload, 1).id
            except InvalidRequest:
                return "refused"

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(attempt, range(8)))
        winners = [result for result in results[:4] if result != "refused"]
        assert len(winners) == 1
        with any_database.read() as tx:
            ended = uploads.get(tx, PROJECT, upload.id)
            made = set(tx.scalars(sa.select(tables.files.c.id)))
            left = part_ids(tx, upload)
        if winners == ["cancelled"]:
            assert (ended.status, ended.file_id, left) == ("cancelled", None, set())
        else:
            assert (ended.status, ended.file_id) == ("completed", winners[0])
            assert left == {part.id for part in parts}
        assert not {result for result in results[:3] if result.startswith("file-")} - made
        assert len(made) == (0 if winners == ["cancelled"] else 1)
        with any_database.transaction() as tx:
            tx.execute(tables.files.delete())


def test_wrong_parts_are_told_before_the_row_is_touched(tx: Tx) -> None:
    upload = begin(tx)
    with pytest.raises(InvalidValue):
        uploads.choose(tx, upload, ["part_nope"])
    assert uploads.get_pending(tx, PROJECT, upload.id) == upload
