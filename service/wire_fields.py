"""Request fields of inference that take several JSON shapes: their checks, and what the document says of them.

Pure functions of JSON values. Knows no request.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from service.wire_values import integral

MAX_PROMPTS = 128
MAX_STOPS = 4
MAX_BIASES = 1024


def _stop(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise PydanticCustomError("invalid_value", "expected a string or an array of strings, none empty")
    if len(stops) > MAX_STOPS:
        raise PydanticCustomError("array_above_max_length", f"array too long. Expected at most {MAX_STOPS} strings")
    return stops


def _logit_bias(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) > MAX_BIASES:
            raise PydanticCustomError(
                "object_above_max_properties", f"too many properties. Expected at most {MAX_BIASES}"
            )
        if not all(key.isascii() and key.isdigit() for key in value):
            raise PydanticCustomError("invalid_value", "expected token ids as keys")
    return value


def _content(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise PydanticCustomError("invalid_value", "expected a string or an array of content parts")
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            raise PydanticCustomError("unsupported_value", "this deployment takes text parts only")
        if set(part) != {"type", kind} or not isinstance(part[kind], str):
            raise PydanticCustomError("invalid_value", "a text part has exactly the keys 'type' and 'text'")
    return value


def _tool_choice(value: Any) -> Any:
    named = (
        isinstance(value, dict)
        and set(value) == {"type", "function"}
        and value["type"] == "function"
        and isinstance(value["function"], dict)
        and isinstance(value["function"].get("name"), str)
    )
    if value not in ("none", "auto", "required") and not named:
        raise PydanticCustomError("invalid_value", "expected 'none', 'auto', 'required' or a named function")
    return value


def _prompt(value: Any) -> Any:
    if isinstance(value, list):
        value = [[integral(token) for token in one] if isinstance(one, list) else integral(one) for one in value]
    if isinstance(value, str) or _tokens(value):
        return value
    many = isinstance(value, list) and value
    if not many or not (all(isinstance(one, str) for one in value) or all(_tokens(one) for one in value)):
        raise PydanticCustomError("invalid_value", "expected a string, token ids, or an array of either")
    if len(value) > MAX_PROMPTS:
        raise PydanticCustomError("array_above_max_length", f"array too long. Expected at most {MAX_PROMPTS} prompts")
    return value


def _tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)


def _text_only(value: Any) -> Any:
    if value != ["text"]:
        raise PydanticCustomError("unsupported_value", "this deployment answers with text only")
    return value


def _unsupported(value: Any) -> Any:
    raise PydanticCustomError("unsupported_parameter", "this deployment does not support it")


_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_REFUSAL_PART = {
    "type": "object",
    "properties": {"type": {"const": "refusal"}, "refusal": {"type": "string"}},
    "required": ["type", "refusal"],
    "additionalProperties": False,
}
_NAMED_FUNCTION = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
    "required": ["type", "function"],
    "additionalProperties": False,
}
_TOKENS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}


def _shown(*kinds: dict[str, Any]) -> WithJsonSchema:
    """What the document says of a field that a function of ours checks."""
    return WithJsonSchema({"anyOf": list(kinds)})


_STRING, _NULL = {"type": "string"}, {"type": "null"}
Content = Annotated[
    Any,
    BeforeValidator(_content),
    _shown(_STRING, {"type": "array", "items": {"anyOf": [_TEXT_PART, _REFUSAL_PART]}}, _NULL),
]
ToolChoice = Annotated[
    Any, BeforeValidator(_tool_choice), _shown({"enum": ["none", "auto", "required"]}, _NAMED_FUNCTION, _NULL)
]
Prompt = Annotated[
    Any,
    BeforeValidator(_prompt),
    _shown(
        _STRING,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _STRING},
        _TOKENS,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _TOKENS},
    ),
]
Stops = Annotated[
    list[str] | None,
    BeforeValidator(_stop),
    _shown(
        {"type": "string", "minLength": 1},
        {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1}},
        _NULL,
    ),
]
Modalities = Annotated[Any, BeforeValidator(_text_only), _shown({"const": ["text"]}, _NULL)]
Biases = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]],
    BeforeValidator(_logit_bias),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_BIASES,
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]
Unsupported = Annotated[Any, BeforeValidator(_unsupported), WithJsonSchema(_NULL)]
