"""Query parameters that the framework has no words for. Knows no route."""

import re

from starlette.requests import Request

from rootstock.errors import InvalidType, InvalidValue


def metadata_filter(request: Request) -> tuple[dict[str, str] | None, bool]:
    """`metadata[k]=v` pairs, and whether only what has no metadata is asked for (`metadata=` or `=null`)."""
    wanted: dict[str, str] = {}
    without = False
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata") and "\0" in name + value:
            raise InvalidValue("Invalid query: it holds a NUL character.", param="metadata")
        if pair := re.fullmatch(r"metadata\[(.*)\]", name, re.DOTALL):
            wanted[pair[1]] = value
        elif name == "metadata":
            if value not in ("", "null"):
                raise InvalidType("Invalid type for 'metadata': expected metadata[key]=value.", param="metadata")
            without = True
    return wanted or None, without
