"""Every way a request can fail becomes one body: `{"error": {message, type, param, code}}`.

The only place where exceptions turn into HTTP. Knows nothing about what the routes do.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from rootstock.errors import (
    InvalidRequest,
    InvalidType,
    InvalidValue,
    MethodNotAllowed,
    MissingParameter,
    RootstockError,
    ServerError,
    UnknownParameter,
    UnknownRoute,
)

log = logging.getLogger(__name__)

WIRE_CODES = frozenset(
    {
        "integer_below_min_value",
        "integer_above_max_value",
        "decimal_below_min_value",
        "decimal_above_max_value",
        "string_below_min_length",
        "string_above_max_length",
        "array_below_min_length",
        "array_above_max_length",
        "object_above_max_properties",
        "unsupported_parameter",
        "unsupported_value",
        "invalid_value",
    }
)
"""Codes that a validator of ours may raise directly (`PydanticCustomError(code, message)`)."""

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}

_BOUNDS = {
    "greater_than": ("below_min", ">", "gt"),
    "greater_than_equal": ("below_min", ">=", "ge"),
    "less_than": ("above_max", "<", "lt"),
    "less_than_equal": ("above_max", "<=", "le"),
}

_LENGTHS = {
    "string_too_short": ("string_below_min_length", "string too short", "minimum", "min_length"),
    "string_too_long": ("string_above_max_length", "string too long", "maximum", "max_length"),
    "too_short": ("array_below_min_length", "array too short", "minimum", "min_length"),
    "too_long": ("array_above_max_length", "array too long", "maximum", "max_length"),
}


def install(app: FastAPI) -> None:
    """Route every failure inside the app through `render`."""
    app.add_exception_handler(RootstockError, render)
    app.add_exception_handler(RequestValidationError, render)
    for status in range(400, 600):  # the framework's own refusals: unknown path, wrong method
        app.add_exception_handler(status, render)


async def render(request: Request, error: Exception) -> JSONResponse:
    """The one handler."""
    known = translate(request, error)
    if known is not error:
        log.log(logging.ERROR if known.status >= 500 else logging.DEBUG, "refused: %s", error)
    elif known.status >= 500:
        log.warning("refused: %s (%s)", known.message, error.__cause__)
    headers = {"allow": _allowed(request)} if isinstance(known, MethodNotAllowed) else getattr(error, "headers", None)
    return response(known, headers)


def _allowed(request: Request) -> str:
    # The framework names the methods of one route; a path has several.
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in fitting for method in route.methods or ()}))


def response(error: RootstockError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that `error` stands for."""
    extra = {**error.headers, **(headers or {})}
    if error.retry_after_seconds is not None:
        extra["retry-after"] = str(error.retry_after_seconds)
    if error.should_retry is not None:
        extra["x-should-retry"] = str(error.should_retry).lower()
    return JSONResponse(error.body(), status_code=error.status, headers=extra)


def translate(request: Request, error: Exception) -> RootstockError:
    """Any exception as one of ours; what nobody foresaw becomes `ServerError`, whose text tells nothing."""
    if isinstance(error, RootstockError):
        return error
    if isinstance(error, RequestValidationError):
        return from_validation(error.errors(), skip_source=True)
    status = getattr(error, "status_code", 500)
    if status == 404:
        return UnknownRoute(request.method, request.scope["path"][:200])
    if status == 405:
        return MethodNotAllowed(request.method, request.scope["path"][:200])
    return InvalidRequest(str(getattr(error, "detail", "Bad request."))) if status < 500 else ServerError()


def from_validation(errors: Iterable[Any], *, skip_source: bool = False) -> InvalidRequest:
    """The first fault that pydantic found, in the API's words, with its dotted path as `param`.

    Example: `{"method": {"type": "x"}}` gives `InvalidValue` with param `method.type`. `skip_source` drops the leading
    `query`/`path` that the framework puts before the name.
    """
    # A misspelt key also makes the right one "missing"; naming the misspelt one helps more.
    first = min(errors, key=lambda fault: fault["type"] != "extra_forbidden")
    param = dotted(first["loc"][1:] if skip_source else first["loc"])
    return _untyped(first, param[:200]) if first["type"].startswith("union_tag_") else _one(first, param)


def dotted(path: Sequence[str | int]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`. Parts in angle brackets are a union's branches, not keys."""
    text = ""
    for part in path:
        if isinstance(part, str) and part.startswith("<") and part.endswith(">"):
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _one(fault: Any, param: str) -> InvalidRequest:
    kind, context, given = fault["type"], fault.get("ctx", {}), fault.get("input")
    name = param[:200]
    if kind == "missing":
        return MissingParameter(f"Missing required parameter: '{name}'.", param=name)
    if kind == "extra_forbidden":
        return UnknownParameter(f"Unrecognized request argument supplied: {name}", param=name)
    if kind in WIRE_CODES:
        return InvalidValue(f"Invalid '{name}': {fault['msg']}", param=name, code=kind)
    if kind in _EXPECTED:
        expected, got = _EXPECTED[kind], json_type(given)
        return InvalidType(f"Invalid type for '{name}': expected {expected}, but got {got} instead.", param=name)
    if kind in _BOUNDS:
        side, sign, key = _BOUNDS[kind]
        number = "decimal" if isinstance(context[key], float) else "integer"
        words = {"below_min": "below minimum value", "above_max": "above maximum value"}[side]
        return InvalidValue(
            f"Invalid '{name}': {number} {words}. Expected a value {sign} {context[key]}, but got {given!r} instead.",
            param=name,
            code=f"{number}_{side}_value",
        )
    if kind in _LENGTHS:
        code, words, bound, key = _LENGTHS[kind]
        size = len(given) if isinstance(given, str | list | dict) else 0
        return InvalidValue(
            f"Invalid '{name}': {words}. Expected {bound} length {context[key]}, but got length {size} instead.",
            param=name,
            code=code,
        )
    if kind in ("literal_error", "enum"):
        expected = re.sub(r" or (?='[^']*'$)", ", ", context["expected"])
        return InvalidValue(f"Invalid value: {_shown(given)}. Supported values are: {expected}.", param=name)
    return InvalidValue(f"Invalid '{name}': {fault['msg'].removeprefix('Value error, ')}.", param=name or None)


def _untyped(fault: Any, name: str) -> InvalidRequest:
    """What an object is that could be of several kinds cannot be told without a known `type`."""
    if not isinstance(fault["input"], dict):
        return InvalidType(f"Invalid type for '{name}': expected an object.", param=name)
    if "type" not in fault["input"]:
        return MissingParameter(f"Missing required parameter: '{name}.type'.", param=f"{name}.type")
    known = re.sub(r"[<>]", "", fault["ctx"].get("expected_tags", "strings only"))
    return InvalidValue(f"Invalid '{name}.type'. Supported values are: {known}.", param=f"{name}.type")


def json_type(value: Any) -> str:
    """What a JSON value is called in messages."""
    if value is None:
        return "null"
    for kinds, words in (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a decimal number"),
        (str, "a string"),
        (list, "an array"),
    ):
        if isinstance(value, kinds):
            return words
    return "an object"


def _shown(value: Any) -> str:
    # A client's own text goes back to it, but never more than a line of it.
    return repr(value[:64]) if isinstance(value, str) else json_type(value)
