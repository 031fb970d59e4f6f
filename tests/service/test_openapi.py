"""The committed API document is the one that the code prints, and it promises what the code keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from service import health, permissions, wire, wire_batches, wire_completions, wire_hooks, wire_jobs, wire_uploads
from service.headers import RATE_HEADERS

COMMITTED = Path(__file__).resolve().parents[2] / "openapi" / "openapi.json"


def subclasses(kind: type) -> set[type[BaseModel]]:
    children: list[type] = kind.__subclasses__()
    return {kind, *(inner for child in children for inner in subclasses(child))}


HOMES = {
    home.__name__
    for home in (health, permissions, wire, wire_batches, wire_completions, wire_hooks, wire_jobs, wire_uploads)
}
RESPONSES = sorted(subclasses(wire.ResponseModel) - {wire.ResponseModel}, key=lambda kind: kind.__name__)


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(COMMITTED.read_text("utf-8"))


def test_the_committed_document_is_fresh(shared_app: FastAPI):
    printed = json.dumps(shared_app.openapi(), indent=2, sort_keys=True) + "\n"
    assert COMMITTED.read_text("utf-8") == printed, "run: python -m service openapi > openapi/openapi.json"


@pytest.mark.parametrize("kind", RESPONSES, ids=lambda kind: kind.__name__)
def test_a_response_never_leaves_a_documented_key_out(kind: type[BaseModel]):
    assert kind.__module__ in HOMES
    assert all(field.is_required() for field in kind.model_fields.values())
    schema = kind.model_json_schema(mode="serialization")
    assert set(schema["required"]) == set(schema["properties"])


def test_errors_are_ours_on_every_route(document: Any):
    assert "422" not in json.dumps(document) and "HTTPValidationError" not in json.dumps(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            faults = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
            assert {"400", "500", "503"} <= set(faults)
            assert ("401" in faults) == path.startswith("/v1/") == ("security" in operation)


def test_limits_are_documented_where_they_apply(document: Any):
    limited = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            assert all("x-request-id" in answer["headers"] for answer in answers.values())
            if "429" in answers:
                limited.add((method, path))
                assert {"retry-after", "x-should-retry"} <= set(answers["429"]["headers"])
            told = set(RATE_HEADERS) & set(answers["200"]["headers"])
            assert told == (set(RATE_HEADERS) if operation["tags"] == ["inference"] and method == "post" else set())
    assert limited == {("post", "/v1/files"), ("post", "/v1/chat/completions"), ("post", "/v1/completions")}


def test_every_reference_leads_somewhere(document: Any):
    known = {name for kind in ("schemas", "headers") for name in document["components"][kind]}

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"].rsplit("/", 1)[1]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(inner) for inner in value.values()))
        return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()

    assert references(document) <= known


def test_request_bodies_are_closed(document: Any):
    for name in ("CreateBatch", "CreateJob", "ChatRequest", "CompletionRequest"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False
