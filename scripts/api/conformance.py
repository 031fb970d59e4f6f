"""How much of the official SDK's API a live server honours: every operation called, every raw answer checked strictly.

`python -m scripts.api.conformance [--base-url URL --key KEY]` prints the percentage; `--write` puts the table into
openapi/README.md. The SDK itself builds its objects without checking; here its types judge the JSON as it came:
required keys there, types and enums exact.
"""

import argparse
import inspect
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import openai
from pydantic import BaseModel, TypeAdapter, ValidationError

from scripts.api import deviations
from scripts.api.live import Live, live
from scripts.api.operations import CALLS, World, is_later, upstream

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "openapi" / "openapi.json"
README = ROOT / "openapi" / "README.md"
BEGIN, END = "<!-- conformance: written by `make conformance` -->", "<!-- conformance: end -->"
HELPERS = ("files.wait_for_processing", "uploads.upload_file_chunked")
"""Operations of the SDK whose arguments are its own."""
NOT_SENT = {"extra_headers", "extra_query", "extra_body", "timeout"}
HONOURED, PARTLY, LEFT_OUT = "honoured", "partly", "left out"


@dataclass
class Row:
    """What became of one operation, and of each of its fields."""

    operation: str
    status: str
    why: str = ""
    route: str = ""
    fields: dict[str, tuple[str, str]] = field(default_factory=dict)  # `request.x` or `response.x` -> status, why


def measure(api: Live) -> list[Row]:
    """Call everything; one row per operation of the SDK's resources."""
    world, document = World(api), json.loads(DOCUMENT.read_text("utf-8"))
    with world.client:
        return [_row(world, document, name, method) for name, method in upstream(world.client).items()]


def percentage(rows: list[Row]) -> float:
    """Operations in scope that are honoured, of a hundred."""
    scope = [row for row in rows if not is_later(row.operation)]
    return 100 * sum(row.status == HONOURED for row in scope) / len(scope)


def _row(world: World, document: Any, name: str, method: Callable[..., Any]) -> Row:
    if is_later(name):
        return Row(name, LEFT_OUT, "comes with a later version")
    try:
        arguments = CALLS[name](world)
        world.exchanges.clear()
        result = method(**arguments)
        if name.endswith(".stream"):
            with result as stream:
                result = stream.get_final_completion()
    except (openai.OpenAIError, AssertionError) as error:
        return Row(name, LEFT_OUT, _one_line(error))
    if not world.exchanges:
        return Row(name, HONOURED, "needs no request")
    answer = world.exchanges[-1]
    row = Row(name, HONOURED)
    found = _documented(document, answer.request.method, answer.request.url.path)
    if found:
        row.route = f"{answer.request.method} {found[0]}"
    if name not in HELPERS and found:
        row.fields |= dict(_request_fields(document, found[1], method, arguments, answer.request.url.raw_path.decode()))
    if "event-stream" not in answer.headers["content-type"]:
        row.fields |= dict(_response_fields(answer.content, result))
    row.fields = {key: deviations.explain(name, key, status, why) for key, (status, why) in row.fields.items()}
    unexplained = [f"{key} {why}" for key, (status, why) in row.fields.items() if why.startswith("unexplained")]
    if unexplained:
        row.status, row.why = PARTLY, "; ".join(unexplained)
    return row


def _documented(document: Any, method: str, path: str) -> tuple[str, Any] | None:
    for template, methods in sorted(document["paths"].items(), key=lambda pair: pair[0].count("{")):
        pattern = re.sub(r"\\\{model\\\}", ".+", re.escape(template))
        if method.lower() in methods and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", pattern), path):
            return template, methods[method.lower()]
    return None


def _request_fields(
    document: Any, operation: Any, method: Callable[..., Any], sent: dict[str, Any], path: str
) -> Iterator[tuple[str, tuple[str, str]]]:
    known: dict[str, Any] = {parameter["name"]: parameter["schema"] for parameter in operation.get("parameters", [])}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        known |= schema["properties"]
    for name in inspect.signature(method).parameters:
        if name in NOT_SENT:
            continue
        matches = [schema for key, schema in known.items() if key == name or key.startswith(f"{name}[")]
        if not matches:
            in_path = str(sent.get(name, "")) and str(sent.get(name)) in unquote(path)
            yield f"request.{name}", (HONOURED, "") if in_path else (LEFT_OUT, "")
        elif matches[0].get("type") == "null":
            yield f"request.{name}", (LEFT_OUT, "")
        elif not set(matches[0]) - {"title", "default", "description"}:
            yield f"request.{name}", (PARTLY, "accepted without effect")
        else:
            yield f"request.{name}", (HONOURED, "")


def _response_fields(content: bytes, result: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    if not isinstance(result, BaseModel):
        return
    body = json.loads(content)
    item = getattr(result, "_model", None)  # of a page
    yield from _judged("response", type(result), body, item)
    if item is not None and body.get("data"):
        yield from _judged("response.data[]", item, body["data"][0], None)


def _judged(prefix: str, model: type[BaseModel], body: Any, item: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    model.model_rebuild()
    for name, info in model.model_fields.items():
        key = info.alias or name
        kind = list[item] if item is not None and key == "data" else info.rebuild_annotation()
        if key not in body:
            yield f"{prefix}.{key}", (LEFT_OUT, "")
        elif fault := _fault(kind, body[key]):
            yield f"{prefix}.{key}", (PARTLY, fault)
        else:
            yield f"{prefix}.{key}", (HONOURED, "")


def _fault(kind: Any, value: Any) -> str:
    """What is wrong with a JSON value by the SDK's type, strictly; empty when nothing is."""
    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return f"unexplained: {'.'.join(str(part) for part in first['loc'])} {first['msg']}"
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def table(rows: list[Row]) -> str:
    """The marked section of openapi/README.md."""
    counts = Counter(row.status for row in rows if not is_later(row.operation))
    fields = Counter(status for row in rows for status, _ in row.fields.values())
    lines = [
        BEGIN,
        f"{percentage(rows):.1f} % of the {sum(counts.values())} operations in scope are honoured, judged by the types",
        f"of openai {version('openai')}. Of {sum(fields.values())} fields {fields[HONOURED]} are honoured,",
        f"{fields[PARTLY]} partly, {fields[LEFT_OUT]} left out.",
        "",
        "| Operation of the SDK | Route | Field | Status | Why |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(f"| `{row.operation}` | {f'`{row.route}`' if row.route else ''} | | {row.status} | {row.why} |")
        lines += [f"| | | `{name}` | {status} | {why} |" for name, (status, why) in row.fields.items()]
    return "\n".join([*lines, END])


def write(text: str) -> None:
    """Put the section into openapi/README.md."""
    page = README.read_text("utf-8")
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n## Conformance\n\n{BEGIN}\n{END}\n"
    before, rest = page.split(BEGIN)
    README.write_text(before + text + rest.split(END)[1], "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how much of the official SDK's API a server honours.")
    parser.add_argument("--base-url", default=os.environ.get("BASE_URL"), help="a running server, without /v1")
    parser.add_argument("--key", default=os.environ.get("OPENAI_API_KEY"), help="an owner's key of that server")
    parser.add_argument("--write", action="store_true", help="write the table into openapi/README.md")
    parser.add_argument("--least", type=float, default=0, help="fail below this percentage")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if given.base_url:
        rows = measure(Live(given.base_url.removesuffix("/v1"), given.key or "", None))
    else:
        with live() as api:
            rows = measure(api)
    for row in rows:
        if row.status != HONOURED and not is_later(row.operation):
            print(f"{row.status:9} {row.operation}: {row.why}")
    if given.write:
        write(table(rows))
    print(f"{percentage(rows):.1f} % of the operations in scope are honoured")
    return 0 if percentage(rows) >= given.least else 1


if __name__ == "__main__":
    sys.exit(main())
