"""What an example must look like (contract section 4): the rules in full, each with the sentence that explains it.

Works on parsed objects; knows nothing about lines, bytes or files.
"""

import re
from collections.abc import Collection
from typing import Any

from rootstock.datasets.parse import Fault, Unparsable, kind, parse_value, shown
from rootstock.records import DataFormat

Json = dict[str, Any]

UNEXPECTED = "Unexpected file format, expected either prompt/completion pairs or chat messages."
MAX_TOOLS = 128

_FORMAT = "invalid_file_format"
_ANSWER_KEYS = ("preferred_output", "non_preferred_output")
_OLDER_ANSWER_KEYS = ("preferred_completion", "non_preferred_completion")
PREFERENCE_OUTPUTS = (_ANSWER_KEYS, _OLDER_ANSWER_KEYS)
"""Both spellings of the two outputs of a preference; an example uses one of them, the better output comes first."""

_PREFERENCE_KEYS = {"input", *_ANSWER_KEYS, *_OLDER_ANSWER_KEYS}
_FIRST_KEY = {
    DataFormat.CHAT: "messages",
    DataFormat.PROMPTS: "messages",
    DataFormat.COMPLETIONS: "prompt",
    DataFormat.PREFERENCE: "input",
}
CHAT_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
PROMPT_KEYS = {"messages", "tools", "parallel_tool_calls"}
"""What a prompt is made of; every other key of its line is the grader's (`item.<key>`)."""

_MESSAGE_KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "refusal", "weight", "tool_calls", "function_call"},
    "tool": {"role", "content", "name", "tool_call_id"},
    "function": {"role", "content", "name"},
}
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def recognise(example: Json, known: DataFormat | None) -> DataFormat:
    """Which format the example wants to be; `known` is that of the examples before it.

    Raises `Fault` when it is none.
    """
    if "messages" in example:
        return _chat_or_prompt(example, known)
    if "prompt" in example or "completion" in example:
        return DataFormat.COMPLETIONS
    if not _PREFERENCE_KEYS.isdisjoint(example):
        return DataFormat.PREFERENCE
    if known is None:
        raise Fault(UNEXPECTED, whole=True)
    raise Fault(f" is missing key '{_FIRST_KEY[known]}'.", code=_FORMAT)


def _chat_or_prompt(example: Json, known: DataFormat | None) -> DataFormat:
    if known in (DataFormat.CHAT, DataFormat.PROMPTS):
        return known
    messages = example["messages"]
    said = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    if not said or said[-1].get("role") not in ("user", "tool"):
        return DataFormat.CHAT
    learnable = any(m.get("role") == "assistant" and m.get("weight") != 0 for m in said)
    return DataFormat.CHAT if learnable and CHAT_KEYS.issuperset(example) else DataFormat.PROMPTS


def check_example(example: Json, form: DataFormat) -> None:
    """Hold the example to the rules of its format. Raises `Fault` for the first one it breaks."""
    if form is DataFormat.CHAT:
        _check_chat(example)
    elif form is DataFormat.PROMPTS:
        _check_prompt(example)
    elif form is DataFormat.COMPLETIONS:
        _check_completion(example)
    else:
        _check_preference(example)


def _check_chat(example: Json) -> None:
    _only(example, CHAT_KEYS, "")
    _check_tool_lists(example)
    messages = _check_messages(example["messages"], "messages", _MESSAGE_KEYS.keys())
    if not any(m["role"] == "assistant" and m.get("weight") != 0 for m in messages):
        raise Fault(" has nothing to learn: it needs at least one assistant message whose weight is not 0")


def _check_prompt(example: Json) -> None:
    _check_tool_lists(example)
    messages = _check_messages(example["messages"], "messages", _MESSAGE_KEYS.keys())
    if messages[-1]["role"] not in ("user", "tool"):
        raise Fault(", 'messages' must end with a user or tool message: the answer is what the model is to find")


def _check_completion(example: Json) -> None:
    _only(example, {"prompt", "completion"}, "")
    for key in ("prompt", "completion"):
        _need(example, key, "")
        if not isinstance(example[key], str):
            raise Fault(f", '{key}' must be a string, not {kind(example[key])}")


def _check_preference(example: Json) -> None:
    answers = _ANSWER_KEYS if example.keys().isdisjoint(_OLDER_ANSWER_KEYS) else _OLDER_ANSWER_KEYS
    _only(example, {"input", *answers}, "")
    for key in ("input", *answers):
        _need(example, key, "")
    given = example["input"]
    if not isinstance(given, dict):
        raise Fault(f", 'input' must be an object, not {kind(given)}")
    _only(given, {"messages", "tools", "parallel_tool_calls"}, ", 'input'")
    _need(given, "messages", ", 'input'")
    _check_tool_lists(given)
    asked = _check_messages(given["messages"], "input.messages", _MESSAGE_KEYS.keys())
    if asked[-1]["role"] == "assistant":
        raise Fault(", 'input' must not end with an assistant message: that is what the two outputs are for")
    for key in answers:
        answer = _check_messages(example[key], key, ("assistant", "tool"))
        if all(m["role"] != "assistant" for m in answer):
            raise Fault(f", '{key}' holds no assistant message")


def _check_messages(messages: Any, key: str, roles: Collection[str]) -> list[Json]:
    if not isinstance(messages, list) or not messages:
        what = "an empty array" if messages == [] else kind(messages)
        raise Fault(f", '{key}' must be an array of at least one message, not {what}")
    place = ", " if key == "messages" else f", {key} "
    calls: set[str] = set()
    for number, message in enumerate(messages, 1):
        _check_message(message, f"{place}message {number}", roles, calls)
    return messages


def _check_message(message: Any, where: str, roles: Collection[str], calls: set[str]) -> None:
    if not isinstance(message, dict):
        raise Fault(f"{where} is not an object but {kind(message)}")
    if "role" not in message:
        raise Fault(f"{where} Discriminator 'role' is missing in value")
    role = message["role"]
    if not isinstance(role, str):
        raise Fault(f"{where} 'role' must be a string, not {kind(role)}")
    if role not in roles:
        raise Fault(f"{where} role {shown(role)} is not one of {', '.join(repr(r) for r in roles)}")
    _only(message, _MESSAGE_KEYS[role], where)
    if not isinstance(message.get("name"), str | None):
        raise Fault(f"{where} 'name' must be a string, not {kind(message['name'])}")
    if role == "assistant":
        _check_assistant(message, where, calls)
        return
    _need(message, "content", where)
    if role == "function":
        _need(message, "name", where)
        if message["content"] is None:
            return
    _check_content(message["content"], where)
    if role == "tool":
        _need(message, "tool_call_id", where)
        answered = message["tool_call_id"]
        if not isinstance(answered, str) or answered not in calls:
            what = shown(answered) if isinstance(answered, str) else kind(answered)
            raise Fault(f"{where} 'tool_call_id' {what} answers no earlier tool call")


def _check_assistant(message: Json, where: str, calls: set[str]) -> None:
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise Fault(f"{where} 'weight' must be 0 or 1")
    refusal = message.get("refusal")
    if not isinstance(refusal, str | None):
        raise Fault(f"{where} 'refusal' must be a string, not {kind(refusal)}")
    if message.get("function_call") is not None:
        _check_called(message["function_call"], f"{where} 'function_call'")
    if message.get("tool_calls") is not None:
        _check_tool_calls(message["tool_calls"], where, calls)
    if message.get("content") is not None:
        _check_content(message["content"], where, assistant=True)
    elif refusal is None and message.get("tool_calls") is None and message.get("function_call") is None:
        raise Fault(f"{where} has neither content nor tool_calls")


def _check_content(content: Any, where: str, *, assistant: bool = False) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        what = "an empty array" if content == [] else kind(content)
        raise Fault(f"{where} 'content' must be a string or an array of text parts, not {what}")
    for part in content:
        if not isinstance(part, dict):
            raise Fault(f"{where} 'content' holds {kind(part)} where a text part is expected")
        sort = part.get("type")
        if sort == "image_url":
            raise Fault(f"{where} contains an image, but the models served here read only text")
        if sort not in ("text", "refusal") or (sort == "refusal" and not assistant):
            what = shown(sort) if isinstance(sort, str) else "without a type" if sort is None else kind(sort)
            raise Fault(f"{where} 'content' holds a part of type {what}, only 'text' can be used")
        _only(part, {"type", sort}, where)
        _need(part, sort, where)
        if not isinstance(part[sort], str):
            raise Fault(f"{where} '{sort}' must be a string, not {kind(part[sort])}")
    if len(content) > 1 and any(part["type"] == "refusal" for part in content):
        raise Fault(f"{where} 'content' must hold either text parts or a single refusal")


def _check_tool_calls(calls: Any, where: str, known: set[str]) -> None:
    if not isinstance(calls, list) or not calls:
        raise Fault(f"{where} 'tool_calls' must be an array of at least one call")
    for number, call in enumerate(calls, 1):
        here = f"{where}, tool call {number}"
        if not isinstance(call, dict):
            raise Fault(f"{here} is not an object but {kind(call)}")
        _only(call, {"id", "type", "function"}, here)
        for key in ("id", "type", "function"):
            _need(call, key, here)
        if not isinstance(call["id"], str) or not call["id"]:
            raise Fault(f"{here} 'id' must be a string that is not empty")
        if call["type"] != "function":
            raise Fault(f"{here} 'type' must be 'function'")
        _check_called(call["function"], here)
        known.add(call["id"])


def _check_called(function: Any, where: str) -> None:
    if not isinstance(function, dict):
        raise Fault(f"{where} function must be an object, not {kind(function)}")
    _only(function, {"name", "arguments"}, where)
    _check_name(function, where)
    _need(function, "arguments", where)
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        raise Fault(f"{where} 'arguments' must be a string that holds JSON, not {kind(arguments)}")
    try:
        parsed = parse_value(arguments)
    except Unparsable as fault:
        raise Fault(f"{where} 'arguments' {fault.reason}") from None
    if not isinstance(parsed, dict):
        raise Fault(f"{where} 'arguments' must hold a JSON object, not {kind(parsed)}")


def _check_tool_lists(example: Json) -> None:
    if not isinstance(example.get("parallel_tool_calls"), bool | None):
        raise Fault(f", 'parallel_tool_calls' must be a boolean, not {kind(example['parallel_tool_calls'])}")
    for number, tool in enumerate(_tool_list(example, "tools"), 1):
        where = f", tool {number}"
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            raise Fault(f"{where} must be an object with type 'function' and the function's description")
        _check_declared(tool["function"], where)
    for number, function in enumerate(_tool_list(example, "functions"), 1):
        _check_declared(function, f", function {number}")


def _tool_list(example: Json, key: str) -> list[Any]:
    listed = example.get(key)
    if listed is None:
        return []
    if not isinstance(listed, list) or len(listed) > MAX_TOOLS:
        raise Fault(f", '{key}' must be an array of at most {MAX_TOOLS} elements")
    return listed


def _check_declared(function: Any, where: str) -> None:
    if not isinstance(function, dict):
        raise Fault(f"{where} is not an object but {kind(function)}")
    _check_name(function, where)
    if not isinstance(function.get("parameters"), dict | None):
        raise Fault(f"{where} 'parameters' must be a JSON schema object, not {kind(function['parameters'])}")


def _check_name(function: Json, where: str) -> None:
    _need(function, "name", where)
    name = function["name"]
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        what = shown(name) if isinstance(name, str) else kind(name)
        raise Fault(f"{where} name {what} must be 1 to 64 letters, digits, '_' or '-'")


def _only(value: Json, allowed: Collection[str], where: str) -> None:
    for key in value:
        if key not in allowed:
            raise Fault(f'{where} contains an extra "{shown(key)[1:-1]}".', code=_FORMAT)


def _need(value: Json, key: str, where: str) -> None:
    if key not in value:
        raise Fault(f"{where} is missing key '{key}'.", code=_FORMAT)
