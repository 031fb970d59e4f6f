"""`/v1/files` through the SDK: what comes back, what is refused, what other projects see."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rootstock import files
from rootstock.errors import StoreError
from tests.service.conftest import Api, chat_rows

FILE_KEYS = {
    "id",
    "object",
    "bytes",
    "created_at",
    "expires_at",
    "filename",
    "purpose",
    "status",
    "status_details",
}


def multipart(*parts: tuple[str, str | None, bytes], boundary: str = "xyz") -> tuple[bytes, dict[str, str]]:
    body = b""
    for name, filename, content in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def objects(api: Api) -> list[str]:
    return list(api.app.state.parts.store.list("files"))


def test_an_uploaded_file_is_there_at_once_and_whole(api: Api):
    made = api.client.files.create(file=("train.jsonl", chat_rows(12)), purpose="fine-tune")
    assert made.status == "processed" and made.bytes == len(chat_rows(12)) and made.filename == "train.jsonl"
    assert set(api.get(f"/v1/files/{made.id}").json()) == FILE_KEYS
    assert api.client.files.retrieve(made.id) == made
    assert api.client.files.wait_for_processing(made.id) == made
    content = api.client.files.content(made.id)
    assert content.read() == chat_rows(12)
    assert content.response.headers["content-type"] == "application/octet-stream"
    assert int(content.response.headers["content-length"]) == made.bytes


@pytest.mark.parametrize("order", [("file", "purpose"), ("purpose", "file")])
def test_the_fields_may_come_in_any_order(api: Api, order: tuple[str, str]):
    parts = {"file": ("file", "a.jsonl", chat_rows(10)), "purpose": ("purpose", None, b"fine-tune")}
    body, headers = multipart(*(parts[name] for name in order))
    answer = api.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert api.client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=answer.json()["id"])


def test_a_body_cut_into_single_bytes_is_the_same_file(api: Api):
    body, headers = multipart(("file", "a.jsonl", chat_rows(10)), ("purpose", None, b"fine-tune"))
    answer = api.post("/v1/files", content=(body[i : i + 1] for i in range(len(body))), headers=headers)
    assert api.client.files.content(answer.json()["id"]).read() == chat_rows(10)


def test_content_that_looks_like_a_boundary_survives(api: Api):
    tricky = b"--xy\r\n--xyz-not-quite\r\n\r\n" + bytes(range(256)) * 5000 + b"\r\n--x"
    body, headers = multipart(("file", "blob.bin", tricky), ("purpose", None, b"user_data"))
    answer = api.post("/v1/files", content=body, headers=headers)
    assert api.client.files.content(answer.json()["id"]).read() == tricky


def test_bytes_without_a_name_are_accepted(api: Api):
    assert api.client.files.create(file=io.BytesIO(chat_rows(3)), purpose="fine-tune").filename == "upload"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("data/train.jsonl", "train.jsonl"),
        ("../../etc/passwd.jsonl", "passwd.jsonl"),
        ("C:\\data\\train.jsonl", "train.jsonl"),
        ("é" * 300 + ".jsonl", "é" * 249 + ".jsonl"),
    ],
)
def test_a_file_name_is_only_ever_a_label(api: Api, name: str, kept: str):
    made = api.client.files.create(file=(name, chat_rows(1)), purpose="fine-tune")
    assert made.filename == kept
    assert objects(api) == [f"files/{made.id}"]
    disposition = api.client.files.content(made.id).response.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="') and disposition.isascii()


def test_control_characters_in_a_file_name_are_dropped(api: Api):
    body, headers = multipart(("purpose", None, b"fine-tune"), ("file", "tr\x01ai\x7fn.jsonl", b"{}"))
    assert api.post("/v1/files", content=body, headers=headers).json()["filename"] == "train.jsonl"


def test_expiry_is_asked_for_or_comes_with_the_purpose(api: Api):
    asked = api.client.files.create(
        file=("a.jsonl", b"{}"), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert asked.expires_at is not None and abs(asked.expires_at - asked.created_at - 3600) <= 2
    batch = api.client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert batch.expires_at is not None and abs(batch.expires_at - batch.created_at - 30 * 86400) <= 2
    assert api.client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune").expires_at is None


@pytest.mark.parametrize(
    ("parts", "param", "code"),
    [
        ([("purpose", None, b"fine-tune")], "file", "missing_required_parameter"),
        ([("file", "a.jsonl", b"{}")], "purpose", "missing_required_parameter"),
        ([("file", "a.jsonl", b"{}"), ("purpose", None, b"fine_tune")], "purpose", "invalid_value"),
        ([("purpose", None, b"fine\0tune"), ("file", "a.jsonl", b"{}")], "purpose", "invalid_value"),
        ([("file", "a.csv", b"{}"), ("purpose", None, b"fine-tune")], "file", None),
        ([("purpose", None, b"fine-tune"), ("file", "a.csv", b"{}")], "file", None),
        ([("file", None, b"{}"), ("purpose", None, b"fine-tune")], "file", "invalid_type"),
        ([("file", "a.jsonl", b""), ("file", "b.jsonl", b"")], "file", None),
        ([("purpose", None, b"batch"), ("purpose", None, b"fine-tune")], "purpose", None),
        ([("colour", None, b"red")], "colour", "unknown_parameter"),
        ([("purpose", None, b"x" * 10_000)], "purpose", None),
        (
            [("file", "a", b""), ("purpose", None, b"batch"), ("expires_after[seconds]", None, b"3600")],
            "expires_after.anchor",
            "missing_required_parameter",
        ),
        (
            [
                ("file", "a", b""),
                ("purpose", None, b"batch"),
                ("expires_after[anchor]", None, b"created_at"),
                ("expires_after[seconds]", None, b"60"),
            ],
            "expires_after.seconds",
            "invalid_value",
        ),
    ],
)
def test_an_upload_that_cannot_be_used_leaves_nothing(api: Api, parts: Any, param: str, code: str | None):
    body, headers = multipart(*parts)
    answer = api.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert objects(api) == [] and api.client.files.list().data == []


def test_the_extension_is_refused_in_the_words_of_the_live_service(api: Api):
    with pytest.raises(openai.BadRequestError, match=r"Invalid file format for Fine-Tuning API. Must be .jsonl"):
        api.client.files.create(file=("a.txt", b"x"), purpose="fine-tune")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"{}", {"content-type": "application/json"}),
        (b"--xyz", {"content-type": "multipart/form-data"}),
        (b"--xyz", {"content-type": "multipart/form-data; boundary=" + "x" * 300}),
        (b"no boundary here", {"content-type": "multipart/form-data; boundary=xyz"}),
        (multipart(("file", "a.jsonl", b"{}"), ("purpose", None, b"batch"))[0][:-9], multipart()[1]),
        multipart(*[("purpose", None, b"batch")] * 10_000),
    ],
)
def test_a_body_that_is_no_upload_is_a_400(api: Api, body: bytes, headers: dict[str, str]):
    answer = api.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"
    assert objects(api) == []


def test_too_large_is_413_and_leaves_nothing(make_api: Any):
    api = make_api(max_file_bytes=5_000_000)
    exact = api.client.files.create(file=("a.jsonl", b"x" * 5_000_000), purpose="batch")
    assert exact.bytes == 5_000_000
    with pytest.raises(openai.APIStatusError) as caught:
        api.client.files.create(file=("a.jsonl", b"x" * 5_000_001), purpose="batch")
    assert caught.value.status_code == 413 and caught.value.param == "file"  # type: ignore[attr-defined]
    assert objects(api) == [f"files/{exact.id}"]


@pytest.mark.parametrize("order", [("file", "purpose"), ("purpose", "file")])
def test_batch_files_have_a_limit_of_their_own(make_api: Any, order: tuple[str, str]):
    api = make_api(max_batch_file_bytes=2_000_000)

    def upload(size: int, purpose: bytes) -> httpx.Response:
        parts = {"file": ("file", "a.jsonl", b"x" * size), "purpose": ("purpose", None, purpose)}
        body, headers = multipart(*(parts[name] for name in order))
        return api.post("/v1/files", content=body, headers=headers)

    refused = upload(2_000_001, b"batch")
    assert refused.status_code == 413
    assert refused.json()["error"]["message"] == "The batch input file is larger than the limit of 2000000 bytes."
    kept = [upload(2_000_000, b"batch"), upload(2_000_001, b"user_data")]
    assert [answer.status_code for answer in kept] == [200, 200]
    assert len(objects(api)) == 2


def test_the_smaller_limit_counts(make_api: Any):
    api = make_api(max_file_bytes=1000, max_batch_file_bytes=2000)
    body, headers = multipart(("purpose", None, b"batch"), ("file", "a.jsonl", b"x" * 1001))
    assert api.post("/v1/files", content=body, headers=headers).status_code == 413


@pytest.mark.parametrize("purpose", ["assistants", "vision", "fine-tune-results", "batch_output", "", "Fine-Tune"])
def test_a_purpose_that_cannot_be_honoured_is_refused_with_those_that_can(api: Api, purpose: str):
    body, headers = multipart(("purpose", None, purpose.encode()), ("file", "a.jsonl", b"{}"))
    answer = api.post("/v1/files", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        f"'{purpose}' is not one of the accepted purposes: 'fine-tune', 'batch', 'evals', 'user_data'."
    )


@pytest.mark.parametrize("purpose", files.UPLOAD_PURPOSES)
def test_every_purpose_is_kept_and_listed(api: Api, purpose: Any):
    made = api.upload(purpose=purpose)
    api.upload(purpose="evals" if purpose != "evals" else "batch")
    assert [(file.id, file.purpose, file.status) for file in api.client.files.list(purpose=purpose)] == [
        (made, purpose, "processed")
    ]


def test_a_store_that_fails_is_a_503_to_be_retried(api: Api, monkeypatch: pytest.MonkeyPatch):
    def fail(_: str) -> None:
        raise StoreError("The store is full.")

    monkeypatch.setattr(api.app.state.parts.store, "writer", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        api.upload()
    assert caught.value.status_code == 503 and "retry-after" in caught.value.response.headers


def test_the_row_comes_last(api: Api, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no row")

    monkeypatch.setattr("rootstock.files.create", fail)
    with pytest.raises(openai.InternalServerError):
        api.upload()
    assert objects(api) == [] and api.client.files.list().data == []


def test_pages_are_newest_first_and_complete(api: Api):
    ids = [api.upload(rows=1) for _ in range(5)]
    first = api.get("/v1/files?limit=2").json()
    assert [item["id"] for item in first["data"]] == ids[:2:-1]
    assert (first["object"], first["has_more"]) == ("list", True)
    assert (first["first_id"], first["last_id"]) == (ids[4], ids[3])
    assert [file.id for file in api.client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in api.client.files.list(limit=2, order="asc")] == ids
    assert api.get(f"/v1/files?after={ids[0]}").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    assert [file.id for file in api.client.files.list(purpose="batch")] == []


def test_a_null_in_the_query_is_absent(api: Api):
    ids = [api.upload(rows=1) for _ in range(2)]
    listed = api.get("/v1/files?purpose=&limit=&order=&after=").json()  # how Node writes nulls
    assert [item["id"] for item in listed["data"]] == ids[::-1]


@pytest.mark.parametrize("limit", ["0", "-1", "99999999999999999999"])
def test_an_odd_limit_is_clamped(api: Api, limit: str):
    api.upload()
    assert len(api.get(f"/v1/files?limit={limit}").json()["data"]) == 1


def test_deleting_is_final(api: Api):
    file_id = api.upload()
    assert api.http.delete(f"/v1/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
    for call in (api.client.files.retrieve, api.client.files.delete, api.client.files.content):
        with pytest.raises(openai.NotFoundError, match=f"No such File object: {file_id}"):
            call(file_id)


@pytest.mark.parametrize("file_id", ["None", "file-0", "..%2Fx", "a b", "é", "%00", "x" * 5000, "'; drop table files"])
def test_ids_that_never_were_are_404(api: Api, file_id: str):
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        answer = api.get(path)
        assert answer.status_code == 404 and answer.json()["error"]["type"] == "invalid_request_error"


def test_another_projects_file_reads_like_no_file(api: Api):
    file_id = api.upload()
    with pytest.raises(openai.NotFoundError) as foreign:
        api.other.files.retrieve(file_id)
    with pytest.raises(openai.NotFoundError) as absent:
        api.other.files.retrieve("file-absent")
    assert str(foreign.value).replace(file_id, "X") == str(absent.value).replace("file-absent", "X")
    assert api.other.files.list().data == []
    with pytest.raises(openai.BadRequestError, match="No element with id"):
        list(api.other.files.list(after=file_id))


def test_a_result_file_is_base64_text(api: Api, tmp_path: Path):
    job = api.succeed()
    content = api.client.files.content(job.result_files[0])
    assert base64.b64decode(content.read()).startswith(b"step,train_loss,train_accuracy")
    assert base64.b64decode(content.text).startswith(b"step,")
    content.write_to_file(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content.read()
    listed = next(file for file in api.client.files.list() if file.id == job.result_files[0])
    assert (listed.filename, listed.purpose) == ("step_metrics.csv", "fine-tune-results")


def test_a_result_file_may_be_plain(make_api: Any):
    api = make_api(result_file_encoding="plain")
    job = api.succeed()
    content = api.client.files.content(job.result_files[0])
    assert content.text.startswith("step,train_loss,train_accuracy")
    assert len(content.read()) == int(content.response.headers["content-length"])
    assert content.response.headers["content-disposition"].startswith('attachment; filename="step_metrics.csv"')


def test_an_object_that_is_gone_is_a_503_not_an_empty_file(api: Api):
    file_id = api.upload()
    api.app.state.parts.store.delete(f"files/{file_id}")
    answer: httpx.Response = api.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 503
