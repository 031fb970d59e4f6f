"""The committed API document is the one that the code prints, and it promises what the code keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from service import app as _every_route  # noqa: F401 (importing it defines every body)
from service import wire
from service.headers import RATE_HEADERS

COMMITTED = Path(__file__).resolve().parents[2] / "openapi" / "openapi.json"


def subclasses(kind: type) -> set[type[BaseModel]]:
    children: list[type] = kind.__subclasses__()
    return {kind, *(inner for child in children for inner in subclasses(child))}


RESPONSES = sorted(
    (kind for kind in subclasses(wire.ResponseModel) if kind.__module__.startswith("service.")),
    key=lambda kind: kind.__name__,
)
RESPONSES.remove(wire.ResponseModel)


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(COMMITTED.read_text("utf-8"))


def test_the_committed_document_is_fresh(shared_app: FastAPI):
    printed = json.dumps(shared_app.openapi(), indent=2, sort_keys=True) + "\n"
    assert COMMITTED.read_text("utf-8") == printed, "run: python -m service openapi > openapi/openapi.json"


@pytest.mark.parametrize("kind", RESPONSES, ids=lambda kind: kind.__name__)
def test_a_response_never_leaves_a_documented_key_out(kind: type[BaseModel]):
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
            told = set(RATE_HEADERS) & set((answers.get("200") or answers["201"])["headers"])
            assert told == (set(RATE_HEADERS) if operation["tags"] == ["inference"] and method == "post" else set())
    sending = {"/v1/files", "/v1/uploads/{upload_id}/parts", "/v1/chat/completions", "/v1/completions"}
    sending.add("/v1/responses")
    assert limited == {("post", path) for path in sending}


def test_every_reference_leads_somewhere(document: Any):
    known = {name for kind in ("schemas", "headers") for name in document["components"][kind]}

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"].rsplit("/", 1)[1]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(inner) for inner in value.values()))
        return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()

    assert references(document) <= known


def operations(document: Any) -> list[tuple[str, Any]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_request_bodies_are_closed_and_shown_by_example(document: Any):
    schemas = document["components"]["schemas"]
    for name, operation in operations(document):
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            schema = schemas.get(content["schema"].get("$ref", "").rsplit("/", 1)[-1], content["schema"])
            assert schema["additionalProperties"] is False, f"{name} takes {kind} with any keys"
            assert content.get("example") or schema.get("examples"), f"{name}: no example of its {kind}"


def test_json_answers_are_closed(document: Any):
    schemas = document["components"]["schemas"]
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get("application/json")
            if content:
                for form in content["schema"].get("anyOf", [content["schema"]]):
                    schema = schemas[form["$ref"].rsplit("/", 1)[1]]
                    assert schema["additionalProperties"] is False, f"{name} answers {status} with any keys"


def test_every_parameter_says_what_it_means(document: Any):
    unsaid = [
        f"{name}: {parameter['name']}"
        for name, operation in operations(document)
        for parameter in operation.get("parameters", [])
        if not parameter.get("description")
    ]
    assert not unsaid, "describe these in the route, or in service/document.py where they mean the same everywhere"


def test_operations_have_one_name_each(document: Any):
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert document["servers"]
