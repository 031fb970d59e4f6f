"""Scores an answer of the support-ticket example against the expected JSON. It knows nothing about models or files."""

from __future__ import annotations

import json
from typing import Any


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object in `text`, which may hold nothing else; None if it is not one."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _same(expected: Any, answer: Any) -> bool:
    """Equal value and equal JSON type: true is not 1."""
    return isinstance(expected, bool) == isinstance(answer, bool) and bool(expected == answer)


def score(expected_json_text: str, answer_text: str) -> float:
    """The fraction of expected fields that the answer has right, from 0.0 to 1.0.

    A field is right if its key is present and its value equal. An answer that is not one valid JSON object, with
    nothing around it but white space, scores 0.0. Fields that nobody asked for are ignored.

    >>> score('{"a":1,"b":"x"}', '{"b": "x", "a": 2}')
    0.5
    >>> score('{"a":1}', 'Sure! {"a":1}')
    0.0
    """
    expected = _object(expected_json_text)
    if not expected:
        raise ValueError("the expected text has to be a JSON object with at least one field")
    answer = _object(answer_text)
    if answer is None:
        return 0.0
    return sum(key in answer and _same(value, answer[key]) for key, value in expected.items()) / len(expected)
