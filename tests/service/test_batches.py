"""Batches through the official SDK: what is taken, answered, refused and listed."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.service.batching import CHAT, Work, content, line, rows_left, submit, work
from tests.service.conftest import Api
from tests.service.fake_vllm import CONTEXT_FULL, FakeVllm, refusal

__all__ = ["work"]  # a fixture


def test_a_new_batch_has_every_key(api: Api) -> None:
    batch = submit(api, [line("a")], metadata={"team": "x"})
    raw = api.get(f"/v1/batches/{batch.id}").json()
    assert raw == {
        "id": batch.id,
        "object": "batch",
        "endpoint": CHAT,
        "model": None,
        "errors": None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": batch.created_at,
        "in_progress_at": None,
        "expires_at": batch.created_at + 86400,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": None,
        "metadata": {"team": "x"},
    }
    assert api.bell.rung[-1] == batch.id


def test_good_lines_are_answered_and_bad_ones_explained(api: Api, vllm: FakeVllm, work: Work) -> None:
    def too_long(body: dict[str, Any]) -> Any:
        return refusal(400, CONTEXT_FULL) if body["messages"][0]["content"] == "long" else None

    vllm.refuse_some = too_long
    rows = [line("a"), line("b", "long"), line("c", temperature=9), line("d", stream=True), line("é\u2028")]
    batch = submit(api, rows)
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert (batch.status, batch.model, batch.errors) == ("completed", "gpt-4o-mini", None)
    assert batch.request_counts is not None and batch.request_counts.to_dict() == {
        "total": 5,
        "completed": 2,
        "failed": 3,
    }
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (10, 6, 16)
    times = [batch.created_at, batch.in_progress_at or 0, batch.finalizing_at or 0, batch.completed_at or 0]
    assert times == sorted(times)

    output, errors = content(api, batch.output_file_id), content(api, batch.error_file_id)
    assert set(output) == {"a", "é\u2028"}
    for row in output.values():
        assert row["error"] is None and row["response"]["status_code"] == 200
        assert row["response"]["request_id"].startswith("req_")
        answer = ChatCompletion.model_validate(row["response"]["body"], strict=True)
        assert answer.model == "gpt-4o-mini" and answer.choices[0].message.content == "Hello wörld"
    told = {name: row["response"]["body"]["error"] for name, row in errors.items()}
    assert {name: (error["code"], error["param"]) for name, error in told.items()} == {
        "b": ("context_length_exceeded", "messages"),
        "c": ("decimal_above_max_value", "temperature"),
        "d": ("invalid_value", "stream"),
    }
    assert {row["response"]["status_code"] for row in errors.values()} == {400}
    assert {row["error"] for row in errors.values()} == {None}
    assert rows_left(api) == 0


def test_its_files_are_files_like_others(api: Api, work: Work) -> None:
    batch = submit(api, [line("a")], output_expires_after={"anchor": "created_at", "seconds": 3600})
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert batch.error_file_id is None
    file = api.client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename, file.status) == ("batch_output", f"{batch.id}_output.jsonl", "processed")
    assert file.expires_at is not None and file.expires_at - file.created_at in (3599, 3600, 3601)
    assert len(api.client.files.content(file.id).read()) == file.bytes
    assert file.id in [one.id for one in api.client.files.list(purpose="batch_output")]
    with pytest.raises(openai.NotFoundError):
        api.other.files.content(file.id)
    assert api.client.files.delete(file.id).deleted


def test_only_failures_leave_no_output_file(api: Api, work: Work) -> None:
    batch = submit(api, [line("a", n=0), line("b", bogus=1)])
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    codes = {name: row["response"]["body"]["error"]["code"] for name, row in content(api, batch.error_file_id).items()}
    assert codes == {"a": "integer_below_min_value", "b": "unknown_parameter"}


def test_plain_completions_and_tuned_models(api: Api, vllm: FakeVllm, work: Work) -> None:
    name = api.model("ft:gpt-4o-mini-2024-07-18:rootstock:tune:abcdefgh", "adapter-tuned-1")
    row = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": name, "prompt": "Hi"}}
    batch = submit(api, [row], endpoint="/v1/completions")
    work()
    batch = api.client.batches.retrieve(batch.id)
    body = content(api, batch.output_file_id)["a"]["response"]["body"]
    assert (body["object"], body["model"], body["choices"][0]["text"]) == ("text_completion", name, "Hello wörld")
    assert vllm.received[-1]["model"] == "adapter-tuned-1"


BAD: list[tuple[Any, list[Any]]] = [
    (b"", [("empty_file", None, None)]),
    (b"\n \n", [("empty_file", None, None)]),
    (b"{nonsense\n", [("invalid_json_line", None, 1)]),
    (b"\xff\xfe{\0}\0", [("invalid_json_line", None, 1)]),
    ([line("a"), line("b"), line("a")], [("duplicate_custom_id", "custom_id", 3)]),
    ([line("a", url="/v1/completions")], [("url_mismatch", "url", 1)]),
    ([line("a"), line("b", model="gpt-4o")], [("model_mismatch", "body.model", 2)]),
    ([line("a", model="")], [("missing_required_parameter", "body.model", 1)]),
    ([line("a") | {"custom_id": 7}], [("invalid_type", "custom_id", 1)]),
    ([line("a") | {"method": "GET"}], [("invalid_value", "method", 1)]),
    ([line("a") | {"extra": 1}], [("unknown_parameter", "extra", 1)]),
    ([line("a", model="ft:gpt:org::nowhere1")], [("model_not_found", "body.model", 1)]),
    (
        [line("a"), "text", line("a", url="/v1/x", model="gpt-4o")],
        [
            ("invalid_type", None, 2),
            ("duplicate_custom_id", "custom_id", 3),
            ("url_mismatch", "url", 3),
            ("model_mismatch", "body.model", 3),
        ],
    ),
]


@pytest.mark.parametrize(
    ("rows", "expected"), BAD, ids=[str(codes[0][0]) + f"-{n}" for n, (_, codes) in enumerate(BAD)]
)
def test_bad_input_fails_the_batch_with_its_lines(
    api: Api, vllm: FakeVllm, work: Work, rows: Any, expected: list[Any]
) -> None:
    batch = submit(api, rows)
    assert batch.status == "validating"
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None and batch.errors is not None and batch.errors.object == "list"
    assert [(error.code, error.param, error.line) for error in batch.errors.data] == expected
    assert all(error.message for error in batch.errors.data)
    assert batch.request_counts is not None and batch.request_counts.total == 0
    assert vllm.received == []


def test_too_many_lines_and_lines_too_long(make_api: Callable[..., Api], vllm: FakeVllm) -> None:
    api = make_api(max_batch_lines=3, max_line_bytes=1024)
    assert judged(api, [line(str(n)) for n in range(3)]) == []
    assert judged(api, [line(str(n)) for n in range(4)]) == [("too_many_tasks", None)]
    assert judged(api, [line("a"), line("b", "x" * 2000)]) == [("invalid_json_line", 2)]


def judged(api: Api, rows: list[Any]) -> list[Any]:
    from service.batching import reading

    path = api.settings.data_dir / "input.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = api.settings
    verdict = reading.judge(
        path, endpoint=CHAT, max_lines=settings.max_batch_lines, max_line_bytes=settings.max_line_bytes
    )
    return [(error["code"], error["line"]) for error in verdict.errors]


def test_at_most_a_hundred_errors_are_told(api: Api, work: Work) -> None:
    batch = submit(api, b"x\n" * 500)
    work()
    errors = api.client.batches.retrieve(batch.id).errors
    assert errors is not None and len(errors.data) == 100


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint", "invalid_value"),
        ({"endpoint": "/v1/responses"}, "endpoint", "invalid_value"),
        ({"completion_window": "1h"}, "completion_window", "invalid_value"),
        ({"input_file_id": "file-nowhere"}, "input_file_id", None),
        ({"input_file_id": None}, "input_file_id", "missing_required_parameter"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds", None),
        ({"output_expires_after": {"anchor": "x", "seconds": 3600}}, "output_expires_after.anchor", "invalid_value"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
        ({"window": "24h"}, "window", "unknown_parameter"),
    ],
)
def test_a_wrong_request_is_400_and_names_the_field(api: Api, change: Any, param: str, code: str | None) -> None:
    file = api.client.files.create(file=b"{}", purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"} | change
    answer = api.post("/v1/batches", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    if code:
        assert answer.json()["error"]["code"] == code


def test_the_input_must_be_the_callers_small_and_for_batches(make_api: Callable[..., Api]) -> None:
    big = make_api().client.files.create(file=b" " * 1001, purpose="batch").id
    api = make_api(max_batch_file_bytes=1000)  # lowered since
    foreign = api.other.files.create(file=b"{}", purpose="batch").id
    for file_id in (foreign, big, api.upload(), api.upload(purpose="user_data")):
        with pytest.raises(openai.BadRequestError) as caught:
            api.client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
        assert caught.value.param == "input_file_id"


def test_without_serving_there_are_no_batches(make_api: Callable[..., Api]) -> None:
    api = make_api(vllm_url=None)
    with pytest.raises(openai.InternalServerError, match="serves no models"):
        submit(api, [line("a")])


def test_lists_are_paged_newest_first_and_clamped(api: Api) -> None:
    made = [submit(api, [line("a")]).id for _ in range(5)]
    assert [batch.id for batch in api.client.batches.list(limit=2)] == made[::-1]
    page = api.get("/v1/batches", params={"limit": 2}).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[4], made[3], True)
    page = api.get("/v1/batches", params={"limit": 999, "after": made[2]}).json()
    assert ([batch["id"] for batch in page["data"]], page["has_more"]) == ([made[1], made[0]], False)
    assert len(api.get("/v1/batches", params={"limit": 0}).json()["data"]) == 1
    assert api.get("/v1/batches", params={"after": "batch_x"}).status_code == 400
    assert list(api.other.batches.list()) == []
    empty = api.get("/v1/batches", params={"after": made[0]}).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize("call", ["retrieve", "cancel"])
@pytest.mark.parametrize("batch_id", ["None", "batch_x", "é", "a b"])
def test_unknown_and_foreign_batches_are_404(api: Api, call: str, batch_id: str) -> None:
    for client, wanted in ((api.client, batch_id), (api.other, submit(api, [line("a")]).id)):
        with pytest.raises(openai.NotFoundError, match="No batch found with id"):
            getattr(client.batches, call)(wanted)


def test_a_repeated_request_gets_the_same_batch(api: Api) -> None:
    file = api.client.files.create(file=b"{}", purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    first = api.post("/v1/batches", json=body).json()["id"]
    assert api.post("/v1/batches", json=body).json()["id"] != first
    newest = api.post("/v1/batches", json=body).json()["id"]
    assert api.post("/v1/batches", json=body, headers={"x-stainless-retry-count": "1"}).json()["id"] == newest
    other = body | {"metadata": {"a": "b"}}
    assert api.post("/v1/batches", json=other, headers={"x-stainless-retry-count": "1"}).json()["id"] != newest

    keyed = {"Idempotency-Key": "one"}
    made = api.post("/v1/batches", json=body, headers=keyed).json()["id"]
    assert api.post("/v1/batches", json=body, headers=keyed).json()["id"] == made
    assert api.post("/v1/batches", json=other, headers=keyed).status_code == 400
