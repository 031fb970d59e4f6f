"""Every documented refusal over its real route, body for body: scripts compare these words."""

from collections.abc import Callable

import httpx
import pytest

from tests.service.conftest import Api
from tests.service.test_errors import assert_headers
from tests.service.wrong_values import ASK, CHAT, JOBS, WRONG_VALUES, Case, header, upload

WRONG_KEY = "sk-rs-abcdefgh-" + "x" * 43
ABSENT_FILES = [
    Case(f"{method} {path}", method, path, 404, "No such File object: file-x", "id")
    for method, path in (
        ("GET", "/v1/files/file-x"),
        ("DELETE", "/v1/files/file-x"),
        ("GET", "/v1/files/file-x/content"),
    )
]
ABSENT_JOBS = [
    Case(
        f"{method} {path}",
        method,
        f"{JOBS}/None{path}",
        404,
        "Could not find fine tune: None",
        "fine_tune_id",
        "fine_tune_not_found",
    )
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/checkpoints"))
]
ABSENT_MODELS = [
    Case(
        f"{method} model",
        method,
        "/v1/models/ft:Qwen%2FX:org::id",
        404,
        "The model 'ft:Qwen/X:org::id' does not exist",
        "model",
        "model_not_found",
    )
    for method in ("GET", "DELETE")
]
CASES = [
    *WRONG_VALUES,
    # 401
    Case(
        "no key",
        "GET",
        "/v1/files",
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY).",
        sent=header("Authorization", ""),
    ),
    Case(
        "bad key",
        "POST",
        CHAT,
        401,
        "Incorrect API key provided: sk-rs***xx.",
        None,
        "invalid_api_key",
        json=ASK,
        sent=header("Authorization", f"Bearer {WRONG_KEY}"),
    ),
    Case(
        "organization",
        "GET",
        "/v1/models",
        401,
        "OpenAI-Organization header should match the one that the API key belongs to.",
        None,
        "mismatched_organization",
        sent=header("OpenAI-Organization", "org-else"),
    ),
    Case(
        "project",
        "GET",
        "/v1/models",
        401,
        "OpenAI-Project header should match the one that the API key belongs to.",
        None,
        "mismatched_project",
        sent=header("OpenAI-Project", "proj_else"),
    ),
    # 403
    Case(
        "base model",
        "DELETE",
        "/v1/models/gpt-4o-mini",
        403,
        "The model 'gpt-4o-mini' is a base model and cannot be deleted.",
        "model",
    ),
    # 404
    Case("route", "POST", "/v1/nothing", 404, "Invalid URL (POST /v1/nothing)"),
    *ABSENT_FILES,
    *ABSENT_JOBS,
    *ABSENT_MODELS,
    Case(
        "inference",
        "POST",
        CHAT,
        404,
        "The model `ft:x` does not exist or you do not have access to it.",
        None,
        "model_not_found",
        json=ASK | {"model": "ft:x"},
    ),
    # 405, 413, 415
    Case("method", "PUT", "/v1/files", 405, "Invalid method for URL (PUT /v1/files)", headers={"allow": "GET, POST"}),
    Case(
        "large body",
        "POST",
        CHAT,
        413,
        "The request body is larger than the limit of 2048 bytes.",
        json=ASK | {"user": "x" * 2048},
        settings={"max_body_bytes": 2048},
    ),
    Case(
        "large file",
        "POST",
        "/v1/files",
        413,
        "The file is larger than the limit of 100 bytes.",
        "file",
        sent=upload(("purpose", None, b"evals"), ("file", "a", b"x" * 101)),
        settings={"max_file_bytes": 100},
    ),
    Case(
        "large batch",
        "POST",
        "/v1/files",
        413,
        "The batch input file is larger than the limit of 50 bytes.",
        "file",
        sent=upload(("purpose", None, b"batch"), ("file", "a", b"x" * 51)),
        settings={"max_batch_file_bytes": 50},
    ),
    Case(
        "compressed",
        "POST",
        CHAT,
        415,
        "Compressed request bodies are not supported; send the body without Content-Encoding.",
        json=ASK,
        sent=header("Content-Encoding", "gzip"),
    ),
    # 429; those that depend on the second are in test_limits
    Case(
        "too large for the minute",
        "POST",
        CHAT,
        429,
        "Request too large for gpt-4o-mini in organization rootstock on tokens per min (TPM): Limit 50, Requested 102.",
        None,
        "rate_limit_exceeded",
        "tokens",
        json=ASK | {"max_tokens": 100},
        headers={"retry-after": "1", "x-should-retry": "false", "x-ratelimit-remaining-tokens": "50"},
        settings={"tokens_per_minute": 50},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_refusal_is_word_for_word(make_api: Callable[..., Api], case: Case):
    api = make_api(**case.settings)
    sent = dict(case.sent) | ({"json": case.json} if case.json is not None else {})
    answer: httpx.Response = api.http.request(case.method, case.path, **sent)
    assert answer.json() == {
        "error": {"message": case.message, "type": case.type, "param": case.param, "code": case.code}
    }
    assert answer.status_code == case.status
    assert answer.headers["content-type"] == "application/json"
    assert_headers(answer)
    assert {name: answer.headers.get(name) for name in case.headers} == case.headers


def test_every_documented_status_is_covered():
    assert {case.status for case in CASES} == {400, 401, 403, 404, 405, 413, 415, 429}
