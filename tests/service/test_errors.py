"""Every refusal has the one shape; every answer has its headers; keys are checked before anything else."""

import json
import logging
import re
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.routing import Route

from rootstock import errors, keys
from service.errors import translate
from tests.service.conftest import Api, sdk

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.RootstockError) and kind is not errors.RootstockError
]
SAMPLES: dict[type, tuple[Any, ...]] = {
    errors.Unauthenticated: (),
    errors.ServerError: (),
    errors.UnknownRoute: ("GET", "/x"),
    errors.MethodNotAllowed: ("PUT", "/x"),
    errors.HeaderMismatch: ("OpenAI-Project", "mismatched_project"),
    errors.JobFailure: ("server_error", "broken"),
}

EXPECTED_SDK_CLASS = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


def assert_error(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert_headers(answer)
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str) and body["error"]["message"]
    return dict(body["error"])


def assert_headers(answer: httpx.Response) -> None:
    assert answer.headers["x-request-id"].startswith("req_") and len(answer.headers["x-request-id"]) == 36
    assert answer.headers["openai-version"] == "2020-10-01"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_rendered_by_the_one_handler(api: Api, kind: type, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise kind(*SAMPLES.get(kind, ("It went wrong.",)))

    monkeypatch.setattr("rootstock.files.get", fail)
    answer = api.get("/v1/files/file-x")
    assert answer.status_code == kind.status  # type: ignore[attr-defined]
    assert_error(answer)
    assert ("retry-after" in answer.headers) == (answer.status_code in (429, 503))
    with pytest.raises(EXPECTED_SDK_CLASS.get(answer.status_code, openai.APIStatusError)):
        api.client.files.retrieve("file-x")


def test_what_nobody_foresaw_is_a_500_that_tells_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret /path and SELECT")

    monkeypatch.setattr("rootstock.files.get", fail)
    with caplog.at_level(logging.ERROR):
        answer = api.get("/v1/files/file-x")
    assert answer.status_code == 500
    error = assert_error(answer)
    assert error["type"] == "server_error" and "secret" not in answer.text
    assert "secret /path" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "Invalid URL (GET /)"),
        ("POST", "/v1/nothing", 404, "Invalid URL (POST /v1/nothing)"),
        ("POST", "/v1/load_lora_adapter", 404, "Invalid URL (POST /v1/load_lora_adapter)"),
        ("POST", "/v1/assistants", 404, "Invalid URL (POST /v1/assistants)"),
        ("GET", "/docs", 404, "Invalid URL (GET /docs)"),
        ("GET", "/openapi.json", 404, "Invalid URL (GET /openapi.json)"),
        ("PUT", "/v1/files", 405, "Invalid method for URL (PUT /v1/files)"),
        ("GET", "/v1/completions", 405, "Invalid method for URL (GET /v1/completions)"),
        ("POST", "/v1/models", 405, "Invalid method for URL (POST /v1/models)"),
    ],
)
def test_unknown_routes_and_methods(api: Api, method: str, path: str, status: int, message: str):
    answer = api.http.request(method, path)
    assert answer.status_code == status
    assert assert_error(answer)["message"] == message


def test_slashes_do_not_matter_to_routing(api: Api):
    for path in ("http://test/v1//files", "http://test//v1/files/", "/v1/files/"):
        assert api.get(path).json()["object"] == "list"


PROBES = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}
WRONG_KEY = "sk-rs-abcdefgh-" + "x" * 43


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic dXNlcjpwYXNz", None),
        (f"Bearer {WRONG_KEY}", "invalid_api_key"),
        ("Bearer sk-short", "invalid_api_key"),
        ("Bearer " + "k" * 9000, "invalid_api_key"),
    ],
)
def test_no_route_answers_without_a_good_key(api: Api, header: str | None, code: str | None):
    del api.http.headers["Authorization"]
    routes = {
        (method, re.sub(r"\{[^}]+\}", "x", route.path))
        for route in api.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }
    assert len(routes - PROBES) > 15 and routes > PROBES
    for method, path in routes - PROBES:
        answer = api.http.request(method, path, headers={} if header is None else {"Authorization": header})
        assert answer.status_code == 401, (method, path)
        error = assert_error(answer)
        assert error["code"] == code and error["type"] == "invalid_request_error"
        assert "x" * 20 not in answer.text and "k" * 20 not in answer.text
        assert "openai-organization" not in answer.headers


def test_a_revoked_key_is_refused_like_an_unknown_one(api: Api):
    with api.database.transaction() as tx:
        key = keys.create(tx, "proj_default", "short-lived")
        caller = keys.authenticate(tx, key)
    client = sdk(key, api.http._transport)
    assert client.files.list().data == []
    with api.database.transaction() as tx:
        keys.revoke(tx, "proj_default", caller.key_id)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.files.list()
    assert caught.value.code == "invalid_api_key" and key not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "good", "code"),
    [
        ("OpenAI-Organization", "rootstock", "mismatched_organization"),
        ("OpenAI-Project", "proj_default", "mismatched_project"),
    ],
)
def test_the_organisation_and_project_headers_must_fit_the_key(api: Api, header: str, good: str, code: str):
    assert api.get("/v1/models", headers={header: good}).status_code == 200
    answer = api.get("/v1/models", headers={header: "somebody"})
    assert answer.status_code == 401 and assert_error(answer)["code"] == code


def test_a_good_answer_has_the_headers_too(api: Api):
    answer = api.client.files.with_raw_response.list()
    assert_headers(answer.http_response)
    assert answer.headers["openai-organization"] == "rootstock"
    assert api.client.models.list()._request_id.startswith("req_")  # type: ignore[union-attr]
    assert answer.headers["x-request-id"] != api.get("/v1/files").headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_inference_has_the_headers_too(api: Api, stream: bool):
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    answer = api.post("/v1/chat/completions", json=body)
    assert_headers(answer)
    assert answer.headers["openai-organization"] == "rootstock"
    assert answer.headers["content-type"].split(";")[0] == ("text/event-stream" if stream else "application/json")
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {name for name in answer.headers if name.startswith(("x-", "openai-"))} <= set(exposed)


@pytest.mark.parametrize(
    "path", ["/v1/files", "/v1/models", "/v1/chat/completions", "/v1/files/x/content", "/anything"]
)
def test_browsers_may_ask_first(api: Api, path: str):
    del api.http.headers["Authorization"]
    answer = api.http.options(path, headers={"Origin": "https://example.org", "Access-Control-Request-Method": "POST"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]


def test_huge_headers_are_refused(api: Api):
    answer = api.get("/v1/files", headers={"x-filler": "x" * 70_000})
    assert answer.status_code == 400
    assert_error(answer)


def test_nothing_a_client_sends_reaches_the_log_as_it_is(api: Api, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        api.get("/v1/files/evil%0Aline%1b[31m", headers={"user-agent": "planted"})
        api.post("/v1/fine_tuning/jobs", json={"model": "planted\nmodel", "training_file": "planted"})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("service", "rootstock"))]
    assert ours and not any("planted" in line or "\n" in line or "\x1b" in line for line in ours)


def test_the_database_being_away_is_a_503(api: Api, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise errors.Unavailable("The database is not reachable at the moment. Please retry.")

    monkeypatch.setattr(api.database, "read", refuse)
    answer = api.get("/v1/files")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "2"


def test_a_failing_commit_is_a_failure_for_the_client(api: Api, monkeypatch: pytest.MonkeyPatch):
    import contextlib

    real = api.database.transaction

    @contextlib.contextmanager
    def broken() -> Any:
        with real() as tx:
            yield tx
            raise RuntimeError("commit failed")

    file_id = api.upload()
    monkeypatch.setattr(api.database, "transaction", broken)
    assert api.post("/v1/fine_tuning/jobs", json={"model": "gpt-4o", "training_file": file_id}).status_code == 500
    assert api.http.delete(f"/v1/files/{file_id}").status_code == 500
    monkeypatch.undo()
    assert api.client.fine_tuning.jobs.list().data == [] and api.client.files.retrieve(file_id).id == file_id


def test_a_framework_error_of_any_other_status_keeps_its_reason():
    class Odd(Exception):
        status_code = 418
        detail = "I am a teapot"

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    body = translate(Request(scope), Odd()).body()
    assert json.loads(json.dumps(body))["error"]["message"] == "I am a teapot"


def test_a_database_without_a_free_connection_is_a_503(api: Api, monkeypatch: pytest.MonkeyPatch):
    crowded = sa.create_engine(api.database.url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    monkeypatch.setattr(api.database, "engine", crowded)
    with api.database.read():
        answer = api.get("/v1/files")
    crowded.dispose()
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "service_unavailable"
