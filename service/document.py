"""The OpenAPI document: FastAPI's, with our error bodies instead of its 422. Knows no route's insides."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from service.wire import ErrorBody

REFERENCE = "#/components/schemas/{model}"

_ALWAYS = {
    "400": "The request cannot be honoured as sent.",
    "500": "Internal failure.",
    "503": "A part is away; retry.",
}
_WITH_KEY = {"401": "No or a wrong API key."}
_WITH_PATH = {"404": "Absent, or another project's."}
_WITH_POST = {"415": "The body is compressed."}
_WITH_BODY = {"413": "The body is too large."}
_LIMITED = {"429": "Over a limit of the project: for this minute, or for requests at a time."}
_UPLOADS = (("post", "/v1/files"), ("post", "/v1/uploads/{upload_id}/parts"))

_HEADERS = {
    "x-request-id": "`req_` and 32 hex digits; our log names the request by it.",
    "openai-processing-ms": "Milliseconds until the answer began.",
    "openai-version": "Always `2020-10-01`.",
    "openai-organization": "The organization of the API key; absent when there was no good one.",
}
_RETRY = {"retry-after": "Seconds to wait, at most 60."}
_NEVER = {"x-should-retry": "`false` when the same request can never succeed."}
_RATES = {
    f"x-ratelimit-{what}-{kind}": meaning
    for kind in ("requests", "tokens")
    for what, meaning in (
        ("limit", f"{kind.capitalize()} that the project may use in a minute; absent when that is not limited."),
        ("remaining", f"{kind.capitalize()} that are left of them."),
        ("reset", "When all are there again, such as `1s` or `1m0s`."),
    )
}

_PARAMETERS = {
    "after": "The id of the last element of the page before; without it the first page.",
    "limit": "Elements of a page, 1 to 10,000; what lies outside is brought to the nearer end, never refused.",
    "order": "By time of creation: `asc` oldest first, `desc` newest first.",
    "file_id": "Id of a file, `file-...`.",
    "job_id": "Id of a fine-tuning job, `ftjob-...`.",
    "batch_id": "Id of a batch, `batch_...`.",
    "eval_id": "Id of an eval, `eval_…`.",
    "run_id": "Id of a run of an eval, `evalrun_…`.",
    "output_item_id": "Id of an output item, `outputitem_…`.",
    "distillation_id": "Id of a distillation, `distil_...`.",
    "completion_id": "Id of a stored chat completion, `chatcmpl-...`.",
    "permission_id": "Id of a permission, `cp_...`.",
    "upgrade_id": "Id of a base upgrade, `upgrade_...`.",
    "upload_id": "Id of an upload, `upload_...`.",
    "webhook_endpoint_id": "Id of a webhook endpoint, `we_...`.",
    "model": "Name of a model or checkpoint; a `/` inside it may be sent as `%2F`.",
}
"""What a parameter of this name means wherever it stands; a route's own description wins."""

_SERVERS = [{"url": "/", "description": "This deployment. SDKs take its address with `/v1` as `base_url`."}]


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, ready for `json.dumps(..., sort_keys=True)`."""
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
    schemas |= _with_definitions("ErrorBody", ErrorBody.model_json_schema(ref_template=REFERENCE))
    found["components"]["headers"] = {
        name: {"description": meaning, "schema": {"type": "string"}}
        for name, meaning in (_HEADERS | _RETRY | _NEVER | _RATES).items()
    }
    found["servers"] = _SERVERS
    found["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer sk-...`, a project's key."}
    }
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete(method, path, operation, schemas)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return found


def operation_id(route: APIRoute) -> str:
    """What client generators call the operation: the name of its function, ours apart from OpenAI's."""
    return f"rootstock_{route.name}" if "/rootstock/" in route.path_format else route.name


def refusal(meaning: str) -> dict[str, Any]:
    """How a route documents a status of its own: `responses={403: refusal("Not an owner's key.")}`."""
    return {"description": meaning, "model": ErrorBody}


def _complete(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Our errors in, the framework's out; the definitions of a request body move to the components."""
    responses = operation["responses"]
    responses.pop("422", None)
    faults = dict(_ALWAYS)
    if path.startswith("/v1/"):
        faults |= _WITH_KEY
        operation["security"] = [{"key": []}]
        if "{" in path or operation["tags"] == ["inference"]:
            faults |= _WITH_PATH
    inference = method == "post" and operation["tags"] == ["inference"]
    if inference or (method, path) in _UPLOADS:
        faults |= _LIMITED
    for parameter in operation.get("parameters", []):
        if parameter["name"] in _PARAMETERS:
            parameter.setdefault("description", _PARAMETERS[parameter["name"]])
    if method == "post":
        faults |= _WITH_POST
    body = operation.get("requestBody")
    if body is not None:
        faults |= _WITH_BODY
        for content in body["content"].values():
            name = content["schema"].get("title")
            if name:
                schemas |= _with_definitions(name, content["schema"])
                content["schema"] = {"$ref": REFERENCE.format(model=name)}
    schema = {"$ref": REFERENCE.format(model="ErrorBody")}
    for status, meaning in faults.items():
        responses.setdefault(status, {"description": meaning, "content": {"application/json": {"schema": schema}}})
    for status, response in responses.items():
        names = list(_HEADERS) + (list(_RETRY) if status in ("429", "503") else [])
        names += (list(_NEVER) if status == "429" else []) + (list(_RATES) if inference and status != "401" else [])
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _with_definitions(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in schema.items() if key != "$defs"}
    return {name: own, **schema.get("$defs", {})}
