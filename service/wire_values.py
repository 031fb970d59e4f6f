"""Kinds of values that request bodies share: numbers as SDKs of every language send them, texts, metadata.

Knows no endpoint, no HTTP and no database.
"""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

MAX_METADATA_PAIRS = 16


def integral(value: Any) -> Any:
    """`3.0` as `3`; anything else as it is."""
    # SDKs of untyped languages send 3.0 for 3.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def auto_or_integer(lowest: int, highest: int | None = None) -> BeforeValidator:
    """Lets "auto" and whole numbers of this range through."""

    def check(value: Any) -> Any:
        value = integral(value)
        if value == "auto":
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise PydanticCustomError("invalid_value", "expected 'auto' or an integer")
        if value < lowest:
            raise PydanticCustomError(
                "integer_below_min_value", f"integer below minimum value. Expected a value >= {lowest}"
            )
        if highest is not None and value > highest:
            raise PydanticCustomError(
                "integer_above_max_value", f"integer above maximum value. Expected a value <= {highest}"
            )
        return value

    return BeforeValidator(check)


def auto_or_number(above: float, highest: float | None = None) -> BeforeValidator:
    """Lets "auto" and numbers above one bound, up to another, through."""

    def check(value: Any) -> Any:
        if value == "auto":
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise PydanticCustomError("invalid_value", "expected 'auto' or a number")
        if value <= above:
            raise PydanticCustomError(
                "decimal_below_min_value", f"number below minimum value. Expected a value > {above:g}"
            )
        if highest is not None and value > highest:
            raise PydanticCustomError(
                "decimal_above_max_value", f"number above maximum value. Expected a value <= {highest:g}"
            )
        return float(value)

    return BeforeValidator(check)


def _metadata(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_METADATA_PAIRS:
        raise PydanticCustomError(
            "object_above_max_properties", f"too many properties. Expected at most {MAX_METADATA_PAIRS}"
        )
    return value


def _printable(value: Any) -> Any:
    if isinstance(value, str) and any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value):
        raise PydanticCustomError("invalid_value", "it holds control characters")
    return value


PRINTABLE = (BeforeValidator(_printable), Field(json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}))
"""Refuses control characters, and says so in the document. Use it as `Annotated[str, *PRINTABLE]`."""

Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    BeforeValidator(_metadata),
]
