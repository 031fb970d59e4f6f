"""What becomes of one answer: kept, or left out for the first reason that holds. Knows no teacher and no grader."""

import json
from enum import StrEnum
from typing import Any

import jsonschema_rs

from rootstock.datasets.parse import Fault, parse_object
from rootstock.datasets.shapes import check_example
from rootstock.distil.prompts import Answer, Prompt
from rootstock.quality.pii import kinds_of
from rootstock.quality.refusals import is_refusal
from rootstock.records import DataFormat


class Outcome(StrEnum):
    """What became of a prompt and its answer; all but `KEPT` are left out of the file."""

    KEPT = "kept"
    INVALID_PROMPT = "invalid_prompt"  # a line that cannot be asked
    REPEATED_PROMPT = "repeated_prompt"  # the same question stands earlier in the source
    NOT_DRAWN = "not_drawn"  # beyond max_examples
    NOT_ASKED = "not_asked"  # the run ended before: budget, or a teacher that went away
    TEACHER_ERROR = "teacher_error"  # the teacher refused the request itself
    EMPTY = "empty"
    TRUNCATED = "truncated"  # cut off by a length limit
    REFUSAL = "refusal"
    INVALID_FORMAT = "invalid_format"  # not JSON, or not of the schema that was asked for
    INVALID_EXAMPLE = "invalid_example"  # no line that training could read
    UNGRADED = "ungraded"  # the grader failed
    LOW_SCORE = "low_score"
    PII = "pii"  # personal data in question or answer, where that is not wanted
    NEAR_DUPLICATE = "near_duplicate"


def example(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    """The line of training data that the two make."""
    said = answer.message
    message: dict[str, Any] = {"role": "assistant"}
    if said.get("content") is not None:
        message["content"] = said["content"]
    if said.get("tool_calls"):
        message["tool_calls"] = [
            {"id": call.get("id"), "type": "function", "function": _called(call.get("function") or {})}
            for call in said["tool_calls"]
        ]
    line: dict[str, Any] = {"messages": [*prompt.messages, message]}
    return line if prompt.tools is None else line | {"tools": prompt.tools}


def look(prompt: Prompt, answer: Answer, *, refusals: bool = True, pii: bool = False) -> Outcome:
    """Whether the answer is worth learning, as far as it can be told by looking at it alone.

    With `refusals` false those are kept, where they are said in words; with `pii` examples that hold personal data are
    left out. Raises nothing.
    """
    if answer.error is not None:
        return Outcome.TEACHER_ERROR
    text = answer.message.get("content")
    calls = answer.message.get("tool_calls")
    if answer.message.get("refusal") or answer.finish_reason == "content_filter":
        return Outcome.REFUSAL
    if not calls and (not isinstance(text, str) or not text.strip()):
        return Outcome.EMPTY
    if answer.finish_reason == "length":
        return Outcome.TRUNCATED
    if isinstance(text, str) and not calls:
        if refusals and is_refusal(text):
            return Outcome.REFUSAL
        if not _keeps_to(prompt.response_format, text):
            return Outcome.INVALID_FORMAT
    try:
        # As it is read again: a NUL in it, or half a character, can be written and not be read.
        line = json.dumps(example(prompt, answer)).encode()
        check_example(parse_object(line), DataFormat.CHAT)
    except (Fault, AttributeError, TypeError, RecursionError):  # a foreign teacher's message may have any form
        return Outcome.INVALID_EXAMPLE
    return Outcome.PII if pii and any(map(kinds_of, texts(prompt, answer))) else Outcome.KEPT


def texts(prompt: Prompt, answer: Answer) -> tuple[str, str]:
    """What tells examples apart, question and answer: system messages, which are often all the same, do not."""
    asked = [message for message in prompt.messages if message["role"] not in ("system", "developer")]
    said = {key: answer.message[key] for key in ("content", "tool_calls") if answer.message.get(key)}
    return json.dumps(asked, ensure_ascii=False), json.dumps(said, ensure_ascii=False)


def _keeps_to(form: dict[str, Any] | None, text: str) -> bool:
    kind = (form or {}).get("type", "text")
    if kind == "text":
        return True
    try:
        value = json.loads(text)
        if kind == "json_object":
            return isinstance(value, dict)
        schema = ((form or {}).get("json_schema") or {}).get("schema", {})
        return bool(jsonschema_rs.validator_for(schema).is_valid(value))
    except (ValueError, RecursionError):  # no JSON, or no schema
        return False


def _called(function: dict[str, Any]) -> dict[str, Any]:
    return {"name": function.get("name"), "arguments": function.get("arguments")}
