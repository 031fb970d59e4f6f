"""`/v1/uploads` through the SDK: parts become a file like any other, and whatever does not fit is a 400."""

import hashlib
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from rootstock import db, files, tables
from rootstock.errors import StoreError
from rootstock.inspection import Inspector
from service import uploads as routes
from tests.service.conftest import Api, chat_rows
from tests.service.test_files import FILE_KEYS

UPLOAD_KEYS = {"id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status", "file"}
GOOD: dict[str, Any] = {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": 10, "mime_type": "text/jsonl"}


def begin(api: Api, size: int, **more: Any) -> str:
    return api.client.uploads.create(**GOOD | {"bytes": size} | more).id


def add(api: Api, upload_id: str, data: bytes) -> str:
    return api.client.uploads.parts.create(upload_id, data=data).id


def objects(api: Api) -> list[str]:
    return list(api.app.state.parts.store.list(""))


def inspect_all(api: Api) -> None:
    inspector = Inspector(api.database, api.app.state.parts.store, api.settings)
    while inspector.run_once():
        pass


def whole(api: Api, content: bytes, **more: Any) -> Any:
    """The file that an upload of `content` in two parts becomes."""
    upload_id = begin(api, len(content), **more)
    second, first = add(api, upload_id, content[7:]), add(api, upload_id, content[:7])
    return api.client.uploads.complete(upload_id, part_ids=[first, second]).file


def test_parts_in_any_order_become_a_file_like_any_other(api: Api):
    content = chat_rows(12)
    upload = api.client.uploads.create(**GOOD | {"bytes": len(content)})
    assert set(upload.to_dict()) == UPLOAD_KEYS
    assert (upload.object, upload.status, upload.bytes, upload.file) == ("upload", "pending", len(content), None)
    assert upload.expires_at == upload.created_at + 3600
    pieces = [content[start : start + 100] for start in range(0, len(content), 100)]
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda piece: add(api, upload.id, piece), reversed(pieces)))[::-1]
    done = api.client.uploads.complete(upload.id, part_ids=ids, md5=hashlib.md5(content).hexdigest().upper())
    assert done.status == "completed" and done.file is not None
    assert set(done.file.to_dict()) == FILE_KEYS
    assert done.file.status == "processed" and done.file.bytes == len(content)
    assert api.client.files.wait_for_processing(done.file.id) == done.file
    answer = api.client.files.content(done.file.id)
    assert answer.read() == content
    assert int(answer.response.headers["content-length"]) == len(content)
    plain = api.client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    with api.database.read() as tx:
        made, usual = (files.find(tx, file_id) for file_id in (done.file.id, plain.id))
    assert (made.sha256, made.check, made.filename) == (usual.sha256, usual.check, usual.filename)
    job = api.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=done.file.id)
    assert api.client.fine_tuning.jobs.retrieve(job.id).status == "queued"


def test_the_sdks_own_loop_over_parts_works(api: Api):
    content = chat_rows(12)
    for more in ({}, {"md5": hashlib.md5(content).hexdigest()}):
        done = api.client.uploads.upload_file_chunked(
            file=content,
            filename="train.jsonl",
            bytes=len(content),
            mime_type="text/jsonl",
            purpose="fine-tune",
            part_size=500,
            **more,
        )
        assert api.client.files.content(done.file.id).read() == content


def test_a_part_is_an_object_of_the_contract(api: Api):
    upload_id = begin(api, 3)
    part = api.client.uploads.parts.create(upload_id, data=io.BytesIO(b"abc"))
    assert set(part.to_dict()) == {"id", "object", "created_at", "upload_id"}
    assert part.id.startswith("part_") and (part.object, part.upload_id) == ("upload.part", upload_id)


def test_an_empty_file_needs_no_parts(api: Api):
    done = api.client.uploads.complete(begin(api, 0), part_ids=[])
    assert api.client.files.content(done.file.id).read() == b""


def test_expiry_is_the_files(api: Api):
    wanted = {"anchor": "created_at", "seconds": 7200}
    file = whole(api, chat_rows(1), expires_after=wanted)
    assert abs(file.expires_at - file.created_at - 7200) <= 1
    assert whole(api, chat_rows(1)).expires_at is None
    batch = whole(api, chat_rows(1), purpose="batch")
    assert abs(batch.expires_at - batch.created_at - 30 * 86400) <= 1


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"filename": None}, "filename", "missing_required_parameter"),
        ({"filename": ""}, "filename", "string_below_min_length"),
        ({"filename": "a.csv"}, "filename", None),
        ({"purpose": None}, "purpose", "missing_required_parameter"),
        ({"purpose": "vision"}, "purpose", "invalid_value"),
        ({"bytes": None}, "bytes", "missing_required_parameter"),
        ({"bytes": -1}, "bytes", "integer_below_min_value"),
        ({"bytes": "1"}, "bytes", "invalid_type"),
        ({"bytes": True}, "bytes", "invalid_type"),
        ({"bytes": 8 * 1024**3 + 1}, "bytes", "integer_above_max_value"),
        ({"bytes": 10**30}, "bytes", "integer_above_max_value"),
        ({"mime_type": None}, "mime_type", "missing_required_parameter"),
        ({"mime_type": "application/pdf"}, "mime_type", "invalid_value"),
        ({"expires_after": {"anchor": "created_at"}}, "expires_after.seconds", "missing_required_parameter"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor", "invalid_value"),
        (
            {"expires_after": {"anchor": "created_at", "seconds": 3599}},
            "expires_after.seconds",
            "integer_below_min_value",
        ),
        ({"size": 3}, "size", "unknown_parameter"),
    ],
)
def test_an_upload_that_could_not_end_well_is_refused_at_its_beginning(
    api: Api, change: dict[str, Any], param: str, code: str | None
):
    answer = api.post("/v1/uploads", json=GOOD | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("mime_type", ["text/jsonl", "application/json", "application/octet-stream", "text/plain"])
def test_eight_gigabytes_of_any_usual_type_may_be_announced(api: Api, mime_type: str):
    assert begin(api, 8 * 1024**3, mime_type=mime_type)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "part_ids"),
        ({"part_ids": "part_1"}, "part_ids"),
        ({"part_ids": ["part_nope"]}, "part_ids"),
        ({"part_ids": []}, "part_ids"),
        ({"part_ids": ["FIRST"]}, "part_ids"),
        ({"part_ids": ["FIRST", "FIRST"]}, "part_ids"),
        ({"part_ids": ["FIRST", "FOREIGN"]}, "part_ids"),
        ({"part_ids": ["FIRST", "SECOND"], "md5": "0" * 32}, "md5"),
        ({"part_ids": ["FIRST", "SECOND"], "md5": "no"}, "md5"),
        ({"part_ids": ["FIRST", "SECOND"], "sha256": "0"}, "sha256"),
    ],
)
def test_a_completion_that_does_not_fit_is_a_400_and_changes_nothing(api: Api, body: dict[str, Any], param: str):
    upload_id = begin(api, 10)
    known = {"FIRST": add(api, upload_id, b"01234"), "SECOND": add(api, upload_id, b"56789")}
    known["FOREIGN"] = add(api, begin(api, 5), b"56789")
    sent = {
        key: [known.get(item, item) for item in value] if isinstance(value, list) else value
        for key, value in body.items()
    }
    answer = api.post(f"/v1/uploads/{upload_id}/complete", json=sent)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert api.client.files.list().data == []
    done = api.client.uploads.complete(upload_id, part_ids=[known["FIRST"], known["SECOND"]])
    assert api.client.files.content(done.file.id).read() == b"0123456789"


def test_a_cancelled_upload_is_over(api: Api):
    upload_id = begin(api, 5)
    part_id = add(api, upload_id, b"01234")
    cancelled = api.client.uploads.cancel(upload_id)
    assert (cancelled.status, cancelled.file) == ("cancelled", None)
    for call in (
        lambda: add(api, upload_id, b"x"),
        lambda: api.client.uploads.complete(upload_id, part_ids=[part_id]),
        lambda: api.client.uploads.cancel(upload_id),
    ):
        with pytest.raises(openai.BadRequestError, match="'cancelled'"):
            call()
    api.app.state.parts.sweep.run_once()
    assert objects(api) == []


def test_a_completed_upload_is_over(api: Api):
    upload_id = begin(api, 5)
    part_id = add(api, upload_id, b"01234")
    api.client.uploads.complete(upload_id, part_ids=[part_id])
    stored = objects(api)
    for call in (
        lambda: add(api, upload_id, b"x"),
        lambda: api.client.uploads.complete(upload_id, part_ids=[part_id]),
        lambda: api.client.uploads.cancel(upload_id),
    ):
        with pytest.raises(openai.BadRequestError, match="'completed'"):
            call()
    assert objects(api) == stored


def test_an_hour_later_it_is_over_too(api: Api):
    upload_id = begin(api, 5)
    part_id = add(api, upload_id, b"01234")
    with api.database.transaction() as tx:
        tx.execute(tables.uploads.update().values(expires_at=db.now() - 1))
    for call in (
        lambda: add(api, upload_id, b"x"),
        lambda: api.client.uploads.complete(upload_id, part_ids=[part_id]),
        lambda: api.client.uploads.cancel(upload_id),
    ):
        with pytest.raises(openai.BadRequestError, match="'expired'"):
            call()


def test_the_retry_of_a_completion_whose_answer_was_lost_gets_the_file(api: Api):
    upload_id = begin(api, 5)
    first, second = add(api, upload_id, b"01"), add(api, upload_id, b"234")
    done = api.client.uploads.complete(upload_id, part_ids=[first, second])
    retry = {"x-stainless-retry-count": "1"}
    assert api.client.uploads.complete(upload_id, part_ids=[first, second], extra_headers=retry) == done
    with pytest.raises(openai.BadRequestError, match="'completed'"):
        api.client.uploads.complete(upload_id, part_ids=[second, first], extra_headers=retry)


def test_the_retry_of_a_completion_that_is_still_at_work_gets_its_file(api: Api, monkeypatch: pytest.MonkeyPatch):
    upload_id = begin(api, 5)
    part_id = add(api, upload_id, b"01234")
    store = api.app.state.parts.store
    first: list[Any] = []
    join = store.join

    def overtaken(*given: Any) -> None:
        join(*given)
        if not first:
            first.append(None)
            with ThreadPoolExecutor(1) as pool:  # the first attempt ends now
                first[0] = pool.submit(api.client.uploads.complete, upload_id, part_ids=[part_id]).result()

    monkeypatch.setattr(store, "join", overtaken)
    retry = {"x-stainless-retry-count": "1"}
    assert api.client.uploads.complete(upload_id, part_ids=[part_id], extra_headers=retry) == first[0]
    with pytest.raises(openai.BadRequestError, match="'completed'"):
        api.client.uploads.complete(upload_id, part_ids=[part_id])


def test_completions_that_read_for_long_hold_up_nobody_else(api: Api, monkeypatch: pytest.MonkeyPatch):
    upload_id = begin(api, 5)
    part_id = add(api, upload_id, b"01234")
    reading, done = threading.Event(), threading.Event()

    def slow(*_: Any) -> Any:
        reading.set()
        assert done.wait(60)
        raise StoreError("The object store is away.")

    monkeypatch.setattr(routes, "_inspect", slow)
    with ThreadPoolExecutor(50) as pool:
        try:
            asked = [
                pool.submit(api.post, f"/v1/uploads/{upload_id}/complete", json={"part_ids": [part_id]})
                for _ in range(45)  # threads that all requests share: 40
            ]
            assert reading.wait(30)
            assert pool.submit(api.get, "/v1/files").result(timeout=30).status_code == 200
        finally:
            done.set()
        assert {one.result().status_code for one in asked} == {503}


def test_one_idempotency_key_is_one_upload(api: Api):
    once = {"Idempotency-Key": "abc"}
    upload_id = begin(api, 5, extra_headers=once)
    assert begin(api, 5, extra_headers=once) == upload_id
    done = api.client.uploads.complete(upload_id, part_ids=[add(api, upload_id, b"01234")])
    again = api.client.uploads.create(**GOOD | {"bytes": 5}, extra_headers=once)
    assert again == done
    assert begin(api, 5) != upload_id


def test_another_projects_upload_reads_like_none(api: Api):
    upload_id = begin(api, 5)
    part_id = add(api, upload_id, b"01234")
    for call in (
        lambda uploads, id_: uploads.parts.create(id_, data=b"x"),
        lambda uploads, id_: uploads.complete(id_, part_ids=[part_id]),
        lambda uploads, id_: uploads.cancel(id_),
    ):
        with pytest.raises(openai.NotFoundError) as foreign:
            call(api.other.uploads, upload_id)
        with pytest.raises(openai.NotFoundError) as absent:
            call(api.other.uploads, "upload_absent")
        assert str(foreign.value).replace(upload_id, "X") == str(absent.value).replace("upload_absent", "X")


def test_a_large_file_is_read_after_the_answer_and_its_job_waits(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(routes, "INSPECT_AT_ONCE_BYTES", 100)
    good = whole(api, chat_rows(12))
    bad = whole(api, chat_rows(12) + b"{broken\n")
    assert good.status == bad.status == "uploaded"
    jobs = [api.client.fine_tuning.jobs.create(model="gpt-4o", training_file=file.id).id for file in (good, bad)]
    assert api.client.files.content(good.id).read() == chat_rows(12)
    api.app.state.parts.sweep.run_once()
    assert {api.client.fine_tuning.jobs.retrieve(job).status for job in jobs} == {"validating_files"}
    inspect_all(api)
    assert api.client.files.wait_for_processing(good.id).status == "processed"
    assert api.client.files.wait_for_processing(bad.id).status == "processed"
    api.app.state.parts.sweep.run_once()
    assert api.client.fine_tuning.jobs.retrieve(jobs[0]).status == "queued"
    failed = api.client.fine_tuning.jobs.retrieve(jobs[1])
    assert failed.error is not None and failed.error.code == "invalid_training_file"


def test_with_an_md5_also_a_large_file_is_read_before_the_answer(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(routes, "INSPECT_AT_ONCE_BYTES", 0)
    upload_id = begin(api, 5)
    done = api.client.uploads.complete(
        upload_id, part_ids=[add(api, upload_id, b"01234")], md5=hashlib.md5(b"01234").hexdigest()
    )
    assert done.file.status == "processed"


def test_a_store_that_breaks_during_completion_changes_nothing(
    make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
):
    api = make_api()
    upload_id = begin(api, 5)
    part_id = add(api, upload_id, b"01234")
    store = api.app.state.parts.store
    for method in ("join", "get"):
        with monkeypatch.context() as broken:

            def away(*_: Any) -> Any:
                raise StoreError("The object store is away.")

            broken.setattr(store, method, away)
            with pytest.raises(openai.InternalServerError):
                api.client.uploads.complete(upload_id, part_ids=[part_id])
    done = api.client.uploads.complete(upload_id, part_ids=[part_id])
    api.app.state.parts.sweep.run_once()
    assert api.client.files.content(done.file.id).read() == b"01234"
    api.client.files.delete(done.file.id)
    api.app.state.parts.sweep.run_once()
    assert objects(api) == []
