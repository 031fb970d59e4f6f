"""Every documented refusal over its real route, body for body: scripts compare these words."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.service.conftest import Api
from tests.service.test_errors import assert_headers
from tests.service.test_files import multipart

INVALID = "invalid_request_error"
WRONG_KEY = "sk-rs-abcdefgh-" + "x" * 43
JOBS, CHAT = "/v1/fine_tuning/jobs", "/v1/chat/completions"
JOB = {"model": "gpt-4o-mini", "training_file": "file-absent"}
ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}


@dataclass
class Case:
    """A request, and the whole answer to it."""

    name: str
    method: str
    path: str
    status: int
    message: str
    param: str | None = None
    code: str | None = None
    type: str = INVALID
    json: Any = None
    sent: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    """What the answer says beside the usual headers."""

    settings: dict[str, Any] = field(default_factory=dict)


def upload(*parts: tuple[str, str | None, bytes]) -> dict[str, Any]:
    body, headers = multipart(*parts)
    return {"content": body, "headers": headers}


def header(name: str, value: str) -> dict[str, Any]:
    return {"headers": {name: value}}


def job(name: str, message: str, param: str | None, code: str | None = None, **change: Any) -> Case:
    return Case(name, "POST", JOBS, 400, message, param, code, json=JOB | change)


def ask(name: str, message: str, param: str | None, code: str | None = None, **change: Any) -> Case:
    return Case(name, "POST", CHAT, 400, message, param, code, json=ASK | change)


def file(name: str, message: str, param: str | None, code: str | None, *parts: tuple[str, str | None, bytes]) -> Case:
    return Case(name, "POST", "/v1/files", 400, message, param, code, sent=upload(*parts))


LIST_TYPES = [
    Case(
        f"limit of {path}",
        "GET",
        f"{path}?limit=ten",
        400,
        "Invalid type for 'limit': expected an integer, but got a string instead.",
        "limit",
        "invalid_type",
    )
    for path in ("/v1/files", JOBS)
]
CURSORS = [
    Case(
        f"cursor of {path}",
        "GET",
        f"{path}?after=file-absent",
        400,
        "No element with id 'file-absent' to continue after.",
        "after",
        "invalid_value",
    )
    for path in ("/v1/files", JOBS)
]
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
    # 400, bodies and values
    Case(
        "not JSON",
        "POST",
        JOBS,
        400,
        "We could not parse the JSON body of your request: expected ident at line 1 column 2. "
        "The API expects a JSON object.",
        sent={"content": b"nonsense"},
    ),
    Case(
        "no object",
        "POST",
        JOBS,
        400,
        "Invalid body: expected an object, but got an array instead.",
        None,
        "invalid_type",
        sent={"content": b"[]"},
    ),
    job("missing", "Missing required parameter: 'model'.", "model", "missing_required_parameter", model=None),
    job(
        "missing file",
        "Missing required parameter: 'training_file'.",
        "training_file",
        "missing_required_parameter",
        training_file=None,
    ),
    job(
        "unknown key",
        "Unrecognized request argument supplied: hyperparameter",
        "hyperparameter",
        "unknown_parameter",
        hyperparameter=None,
    ),
    job(
        "unknown key inside",
        "Unrecognized request argument supplied: method.supervised.hyperparameters.epochs",
        "method.supervised.hyperparameters.epochs",
        "unknown_parameter",
        method={"type": "supervised", "supervised": {"hyperparameters": {"epochs": 1}}},
    ),
    job(
        "wrong type",
        "Invalid type for 'suffix': expected a string, but got an integer instead.",
        "suffix",
        "invalid_type",
        suffix=1,
    ),
    job(
        "too long",
        "Invalid 'suffix': string too long. Expected maximum length 64, but got length 65 instead.",
        "suffix",
        "string_above_max_length",
        suffix="x" * 65,
    ),
    job(
        "seed below",
        "Invalid 'seed': integer below minimum value. Expected a value >= 0, but got -1 instead.",
        "seed",
        "integer_below_min_value",
        seed=-1,
    ),
    job(
        "seed above",
        "Invalid 'seed': integer above maximum value. Expected a value <= 2147483647, but got 2147483648 instead.",
        "seed",
        "integer_above_max_value",
        seed=2**31,
    ),
    job("absent file", "invalid training_file: file-absent", "training_file"),
    job("a path", "invalid training_file: data/train.jsonl", "training_file", training_file="data/train.jsonl"),
    job(
        "model",
        "Model gpt-9 is not available for fine-tuning or does not exist.",
        "model",
        "model_not_available",
        model="gpt-9",
    ),
    Case(
        "idempotency key",
        "POST",
        JOBS,
        400,
        "Invalid 'Idempotency-Key': expected 1 to 255 printable ASCII characters.",
        "Idempotency-Key",
        "invalid_value",
        json=JOB,
        sent=header("Idempotency-Key", "k" * 256),
    ),
    ask(
        "temperature",
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2.0, but got 3 instead.",
        "temperature",
        "decimal_above_max_value",
        temperature=3,
    ),
    ask(
        "role",
        "Invalid value: 'robot'. Supported values are: 'system', 'developer', 'user', 'assistant', 'tool', 'function'.",
        "messages[0].role",
        "invalid_value",
        messages=[{"role": "robot", "content": "Hi"}],
    ),
    ask(
        "no messages",
        "Invalid 'messages': array too short. Expected minimum length 1, but got length 0 instead.",
        "messages",
        "array_below_min_length",
        messages=[],
    ),
    ask(
        "unsupported",
        "Invalid 'functions': this deployment does not support it",
        "functions",
        "unsupported_parameter",
        functions=[{"name": "f"}],
    ),
    file(
        "no file",
        "Missing required parameter: 'file'.",
        "file",
        "missing_required_parameter",
        ("purpose", None, b"batch"),
    ),
    file(
        "no purpose",
        "Missing required parameter: 'purpose'.",
        "purpose",
        "missing_required_parameter",
        ("file", "a", b""),
    ),
    file(
        "unknown field",
        "Unrecognized request argument supplied: colour",
        "colour",
        "unknown_parameter",
        ("colour", None, b""),
    ),
    file(
        "extension",
        "Invalid file format for Fine-Tuning API. Must be .jsonl",
        "file",
        None,
        ("purpose", None, b"fine-tune"),
        ("file", "a.csv", b""),
    ),
    file(
        "half an expiry",
        "Missing required parameter: 'expires_after.seconds'.",
        "expires_after.seconds",
        "missing_required_parameter",
        ("purpose", None, b"batch"),
        ("file", "a", b""),
        ("expires_after[anchor]", None, b"created_at"),
    ),
    Case(
        "order",
        "GET",
        "/v1/files?order=up",
        400,
        "Invalid value: 'up'. Supported values are: 'asc', 'desc'.",
        "order",
        "invalid_value",
    ),
    *LIST_TYPES,
    *CURSORS,
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
