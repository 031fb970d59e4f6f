"""What a refusal is compared with, and those of bodies and values that are wrong (400). Knows no test."""

from dataclasses import dataclass, field
from typing import Any

from tests.service.test_files import multipart

INVALID = "invalid_request_error"
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

WRONG_VALUES = [
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
]
