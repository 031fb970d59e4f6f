"""Query parameters that the framework has no words for. Knows no route."""

import re
from datetime import date
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError, PydanticKnownError
from starlette.requests import Request

from rootstock.errors import InvalidType, InvalidValue
from service.wire_values import MAX_METADATA_PAIRS

METADATA_FILTER = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "`metadata[k]=v`, all must match; `metadata=null` or `metadata=`: only what has none.",
    "schema": {
        "type": "object",
        "maxProperties": MAX_METADATA_PAIRS,
        "additionalProperties": {"type": ["string", "null"]},
    },
}
"""For lists that filter by metadata: `openapi_extra={"parameters": [METADATA_FILTER]}`."""


def _digits(value: Any) -> Any:
    # pydantic would also take "+0.0" and "1_000", and refuse what has thousands of digits.
    if isinstance(value, str):
        if not re.fullmatch(r"-?[0-9]+", value):
            raise PydanticKnownError("int_parsing")
        return value[:18]
    return value


Limit = Annotated[int, BeforeValidator(_digits)]
"""How long a page may be; a plain integer, clamped by `rootstock.paging` and never refused for its size."""


def _written_out(value: Any) -> Any:
    # pydantic would also take seconds since 1970.
    if isinstance(value, str):
        try:
            if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
                return date.fromisoformat(value)
        except ValueError:
            pass
        raise PydanticCustomError("invalid_value", "expected a date such as 2026-01-31.")
    return value


Day = Annotated[date, BeforeValidator(_written_out)]
"""A day of the calendar, as `2026-01-31`."""


def metadata_filter(request: Request) -> tuple[dict[str, str] | None, bool]:
    """`metadata[k]=v` pairs, and whether only what has no metadata is asked for (`metadata=` or `=null`)."""
    wanted: dict[str, str] = {}
    without = False
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata") and "\0" in name + value:
            raise InvalidValue("Invalid query: it holds a NUL character.", param="metadata")
        if pair := re.fullmatch(r"metadata\[(.*)\]", name, re.DOTALL):
            if "][" in pair[1] or pair[1] in wanted:
                raise InvalidType("Invalid type for 'metadata': each key has one string.", param="metadata")
            wanted[pair[1]] = value
        elif name == "metadata":
            if value not in ("", "null"):
                raise InvalidType("Invalid type for 'metadata': expected metadata[key]=value.", param="metadata")
            without = True
    if len(wanted) > MAX_METADATA_PAIRS:
        # Nothing carries more, and each of them is a subquery: a thousand are more than SQLite can plan.
        text = f"Invalid 'metadata': too many properties. Expected at most {MAX_METADATA_PAIRS}."
        raise InvalidValue(text, param="metadata", code="object_above_max_properties")
    return wanted or None, without
