"""File rows through `rootstock.files`: names, purposes, scope, expiry, deletion and when an object may go."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import db, files, ids, keys
from rootstock.db import Database, Tx
from rootstock.errors import FileNotFound, InvalidRequest, InvalidValue
from rootstock.records import DataCheck, DataFault, DataFormat, FileRecord, JobStatus
from tests.rootstock.rows import add_job, add_project, set_job_status

PROJECT = keys.DEFAULT_PROJECT


@pytest.fixture
def tx(any_database: Database) -> Iterator[Tx]:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        yield tx


def make(tx: Tx, **values: Any) -> FileRecord:
    file_id = ids.new("file-")
    given: dict[str, Any] = {
        "file_id": file_id,
        "project_id": PROJECT,
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "size": 10,
        "sha256": "0" * 64,
        "object_key": f"files/{file_id}",
        "check": None,
    }
    return files.create(tx, **given | values)


def now(tx: Tx) -> float:
    return float(tx.execute(sa.select(db.now())).scalar_one())


def test_a_created_file_reads_back_equal(tx: Tx) -> None:
    made = make(tx, check=DataCheck(DataFormat.CHAT, 12), expires_at=now(tx) + 3600)
    assert files.get(tx, PROJECT, made.id) == made
    assert made.status == "processed" and made.status_details is None
    assert made.check == {"format": "fine-tune-chat", "examples": 12, "faults": [], "faults_total": 0}
    assert abs(made.created_at - now(tx)) < 60


def test_a_faulty_file_is_processed_all_the_same_and_tells_its_first_fault(tx: Tx) -> None:
    # instructor's command line waits for "processed" for ever.
    made = make(tx, check=DataCheck(None, 0, (DataFault(1, "invalid_training_file", "Bad."),), 1))
    assert (made.status, made.status_details) == ("processed", "Bad.")


@pytest.mark.parametrize("file_id", ["file-nope", "None", "", "nul\0", "\ud800", "ü"])
def test_an_unknown_file_is_not_found(tx: Tx, file_id: str) -> None:
    with pytest.raises(FileNotFound):
        files.get(tx, PROJECT, file_id)
    with pytest.raises(FileNotFound):
        files.delete(tx, PROJECT, file_id)


def test_another_projects_file_reads_like_an_absent_one(tx: Tx) -> None:
    foreign = make(tx, project_id=add_project(tx, "proj_other"))
    for call in (files.get, files.delete):
        with pytest.raises(FileNotFound) as caught:
            call(tx, PROJECT, foreign.id)
        assert caught.value.message == f"No such File object: {foreign.id}"
    assert files.list_page(tx, PROJECT).data == []
    assert files.get(tx, "proj_other", foreign.id) == foreign


def test_a_deleted_file_is_gone_and_a_second_delete_says_so(tx: Tx) -> None:
    made = make(tx)
    files.delete(tx, PROJECT, made.id)
    assert files.list_page(tx, PROJECT).data == []
    with pytest.raises(FileNotFound):
        files.get(tx, PROJECT, made.id)
    with pytest.raises(FileNotFound):
        files.delete(tx, PROJECT, made.id)


def test_an_expired_file_behaves_as_absent_and_is_purged(tx: Tx) -> None:
    made, kept = make(tx, expires_at=now(tx) - 1), make(tx, expires_at=now(tx) + 3600)
    with pytest.raises(FileNotFound):
        files.get(tx, PROJECT, made.id)
    assert [f.id for f in files.list_page(tx, PROJECT).data] == [kept.id]
    assert [f.id for f in files.purgeable(tx, 10)] == [made.id]


def test_lists_are_newest_first_and_filter_by_purpose(tx: Tx) -> None:
    made = [make(tx, purpose=purpose).id for purpose in ("fine-tune", "evals", "fine-tune")]
    assert [f.id for f in files.list_page(tx, PROJECT).data] == made[::-1]
    assert [f.id for f in files.list_page(tx, PROJECT, order="asc", purpose="fine-tune").data] == [made[0], made[2]]
    assert files.list_page(tx, PROJECT, purpose="nul\0").data == []


def test_a_client_can_delete_what_it_lists_page_by_page(tx: Tx) -> None:
    made = {make(tx).id for _ in range(5)}
    seen, after = set(), None
    while True:
        page = files.list_page(tx, PROJECT, limit=2, after=after)
        for file in page.data:
            seen.add(file.id)
            files.delete(tx, PROJECT, file.id)
            after = file.id
        if not page.has_more:
            break
    assert seen == made


@pytest.mark.parametrize("column", ["training_object", "validation_object", "replay"])
def test_the_object_of_a_deleted_file_stays_while_a_job_may_still_read_it(tx: Tx, column: str) -> None:
    made = make(tx)
    add_job(tx)  # one that says nothing of replay
    replay = {"rootstock": {"replay": {"share": 0.2, "file": made.id, "object": made.object_key}}}
    job = add_job(tx, **(replay if column == "replay" else {column: made.object_key}))
    files.delete(tx, PROJECT, made.id)
    for status in JobStatus:
        set_job_status(tx, job, str(status))
        assert bool(files.purgeable(tx, 10)) == status.terminal, status


def test_purging_happens_once_and_never_to_a_live_file(tx: Tx) -> None:
    make(tx)
    deleted = [make(tx).id for _ in range(3)]
    for file_id in deleted:
        files.delete(tx, PROJECT, file_id)
    assert [f.id for f in files.purgeable(tx, 2)] == deleted[:2]
    files.mark_purged(tx, deleted[0])
    assert [f.id for f in files.purgeable(tx, 10)] == deleted[1:]


def test_a_delete_waits_for_the_job_that_is_being_created_with_the_file(any_database: Database) -> None:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        made = make(tx)

    def delete() -> None:
        with any_database.transaction() as tx:
            files.delete(tx, PROJECT, made.id)

    other = threading.Thread(target=delete)
    with any_database.transaction() as tx:
        files.get(tx, PROJECT, made.id, lock=True)
        other.start()
        other.join(timeout=0.2)
        assert other.is_alive(), "the delete must not overtake the job"
        add_job(tx, training_object=made.object_key)
    other.join(timeout=10)
    with any_database.read() as tx:
        assert files.purgeable(tx, 10) == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("train.jsonl", "train.jsonl"),
        ("data/train.jsonl", "train.jsonl"),
        ("/etc/passwd", "passwd"),
        ("../../etc/x", "x"),
        ("C:\\Users\\me\\train.jsonl", "train.jsonl"),
        ("mixed\\up/..\\t.jsonl", "t.jsonl"),
        ("a\r\nSet-Cookie: x\0.jsonl", "aSet-Cookie: x.jsonl"),
        ("\u202egnp.jsonl", "gnp.jsonl"),
        ("lone\ud800.jsonl", "lone.jsonl"),
        ("Übung 日本.jsonl", "Übung 日本.jsonl"),
        ("", "upload"),
        ("..", "upload"),
        ("dir/", "upload"),
        (" \t\n", "upload"),
    ],
)
def test_only_a_harmless_last_segment_of_a_filename_is_kept(given: str, kept: str) -> None:
    assert files.clean_filename(given) == kept


def test_a_long_filename_is_cut_but_keeps_its_extension() -> None:
    assert files.clean_filename("a" * 10_000 + ".jsonl") == "a" * 249 + ".jsonl"
    assert files.clean_filename("a." + "b" * 10_000) == "a." + "b" * 253


@pytest.mark.parametrize("filename", ["t.jsonl", "T.JSONL", "upload", "dir.d/upload", "a" * 9999 + ".jsonl"])
def test_fine_tune_files_are_jsonl_or_have_no_extension(filename: str) -> None:
    files.check_extension(filename, "fine-tune")


@pytest.mark.parametrize("filename", ["t.json", "t.csv", "t.jsonl.gz", "x/t.txt"])
def test_another_extension_is_refused_for_fine_tune_only(filename: str) -> None:
    files.check_extension(filename, "batch")
    with pytest.raises(InvalidRequest, match=r"^Invalid file format for Fine-Tuning API\. Must be \.jsonl$"):
        files.check_extension(filename, "fine-tune")


def test_purposes_that_are_not_ours_are_refused_with_the_list() -> None:
    for purpose in files.UPLOAD_PURPOSES:
        files.check_purpose(purpose)
    for purpose in ("assistants", "vision", "fine-tune-results", "", "x" * 999):
        with pytest.raises(InvalidValue) as caught:
            files.check_purpose(purpose)
        assert caught.value.param == "purpose"
        assert "'fine-tune'" in caught.value.message and len(caught.value.message) < 200
