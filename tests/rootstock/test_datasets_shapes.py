"""What a line of training data may be, and the exact code and sentence for each thing that it may not."""

import json
from typing import Any

import pytest

from rootstock.records import DataCheck, DataFormat
from tests.rootstock.data import ASSISTANT, CALL, FILE, FORMAT, GOOD, PREFERENCE, USER, calling, chat, check, the_fault

GOOD_LINES = {
    "plain": GOOD,
    "all plain roles": chat({"role": "system", "content": ""}, {"role": "developer", "content": "x"}, USER, ASSISTANT),
    "keys in another order, spaces": b' { "messages" : [ {"content":"a", "role":"assistant"} ] } ',
    "names and weights": chat({**USER, "name": "bob"}, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}),
    "weight as another spelling of 0 or 1": chat(USER, {**ASSISTANT, "weight": 1.0}, {**ASSISTANT, "weight": -0.0}),
    "nulls mean absent": chat(USER, {**ASSISTANT, "tool_calls": None, "refusal": None, "weight": None}, tools=None),
    "text parts": chat({"role": "user", "content": [{"type": "text", "text": "a"}] * 2}, ASSISTANT),
    "a refusal": chat(USER, {"role": "assistant", "refusal": "No."}),
    "a refusal part": chat(USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}),
    "a tool call and its answer": chat(
        USER,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        ASSISTANT,
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        parallel_tool_calls=False,
    ),
    "deprecated functions": chat(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": None},
        ASSISTANT,
        functions=[{"name": "f"}],
    ),
    "ends with the user": chat(USER, ASSISTANT, USER),
    "escaped emoji": b'{"messages":[{"role":"assistant","content":"\\ud83d\\ude00"}]}',
    "raw emoji and control-looking text": '{"messages":[{"role":"assistant","content":"😀 \x7f <|im_end|>"}]}'.encode(),
    "text that only looks like a NUL escape": b'{"messages":[{"role":"assistant","content":"\\\\u0000"}]}',
    "32 deep": chat(ASSISTANT, functions=[{"name": "f", "parameters": json.loads('{"a":' * 29 + "1" + "}" * 29)}]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_LINES)
def test_a_good_chat_line_is_accepted(name: str) -> None:
    assert check(GOOD_LINES[name]) == DataCheck(DataFormat.CHAT, 1)


@pytest.mark.parametrize(
    ("example", "form"),
    [
        ({"prompt": "", "completion": "x"}, DataFormat.COMPLETIONS),
        (PREFERENCE, DataFormat.PREFERENCE),
        (
            {"input": {"messages": [USER], "tools": []}}
            | {"preferred_completion": [ASSISTANT], "non_preferred_completion": [ASSISTANT]},
            DataFormat.PREFERENCE,
        ),
    ],
)  # fmt: skip
def test_the_other_formats_are_recognised(example: dict[str, Any], form: DataFormat) -> None:
    assert check(json.dumps(example).encode()) == DataCheck(form, 1)


def parse_fault(reason: str) -> tuple[str, str]:
    return FILE, f"Invalid file format. Example 2 cannot be parsed. Error: {reason} (line 2)"


UNPARSABLE = [
    (b'{"messages": [}', "line contains invalid json: Expecting value at column 15"),
    (b"{'messages': 1}", "line contains invalid json: Expecting property name enclosed in double quotes at column 2"),
    (b"{", "line contains invalid json: Expecting property name enclosed in double quotes at column 2"
           "; the JSON does not end on its line, write each example on one line"),
    (b'{"messages": ["abc', "line contains invalid json: Unterminated string starting at column 15"
           "; the JSON does not end on its line, write each example on one line"),
    (GOOD + GOOD, f"line contains invalid json: Extra data at column {len(GOOD) + 1}"
           "; write exactly one JSON object per line"),
    (b"\xef\xbb\xbf" + GOOD, "line contains invalid json: Expecting value at column 1"),
    (b'{"messages": "\xff"}', "line is not valid UTF-8: byte 0xff at offset 14"),
    (b'{"messages": "\xed\xa0\x80"}', "line is not valid UTF-8: byte 0xed at offset 14"),
    (GOOD.replace(b"Hi", b"\\ud800"), "line contains a lone surrogate (\\ud800)"),
    (GOOD.replace(b"Hi", b"\\u00e9 \\udfff"), "line contains a lone surrogate (\\udfff)"),
    (GOOD.replace(b"Hi", b"a\\u0000b"), "line contains a NUL character (\\u0000)"),
    (GOOD.replace(b"Hi", b"\xc3\xa9\\u0000"), "line contains a NUL character (\\u0000)"),
    (GOOD.replace(b"Hi", b"\0"), "line contains invalid json: Invalid control character at column 44"),
    (b'{"x": NaN}', "line contains invalid json: NaN is not a JSON number"),
    (b'{"x": -Infinity}', "line contains invalid json: -Infinity is not a JSON number"),
    (b'{"x": 1e999}', "line contains a number that is out of range"),
    (b'{"x": ' + b"9" * 5000 + b"}", "line contains a number of 5000 digits"),
    (b'{"x": {"role": 1, "role": 2}}', "line repeats the key 'role' in one object"),
    (b'{"messages":[{"role":"user","role":"system","content":"x"},{"role":"assistant","content":"x"}]}',
     "line repeats the key 'role' in one object"),
    (b'{"messages":[{"role":"assistant","content":"x","c\\u006fntent":"y"}]}',
     "line repeats the key 'content' in one object"),
    (b'{"messages":[],"messages":[{"role":"assistant","content":"x"}]}',
     "line repeats the key 'messages' in one object"),
    (b'{"messages":[{"role":"assistant","content":"x"}],"messages":[{"role":"assistant","content":"x"}]}',
     "line repeats the key 'messages' in one object"),
    (b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}", "line is nested deeper than 32 levels"),
    (b"[" * 10_000 + b"]" * 10_000, "line is nested deeper than 32 levels"),
    (b'{"messages":' * 10_000, "line is nested deeper than 32 levels"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), UNPARSABLE, ids=range(len(UNPARSABLE)))
def test_a_line_that_readers_could_disagree_on_is_refused(line: bytes, reason: str) -> None:
    assert the_fault(line) == parse_fault(reason)


def m2(text: str) -> str:
    return f"Invalid file format. Example 2, message 2{text}"


def assistant(**fields: Any) -> bytes:
    return chat(USER, {**ASSISTANT, **fields})


MISSHAPEN = [
    (b"7", FILE, "Invalid file format. Example 2 is not a JSON object but a number"),
    (b"null", FILE, "Invalid file format. Example 2 is not a JSON object but null"),
    (b"[" + GOOD + b"]", FILE, "Invalid file format. Example 2 is a JSON array: "
                               "write one JSON object per line, without an enclosing array"),
    (b"{}", FORMAT, "Invalid file format. Example 2 is missing key 'messages'."),
    (chat(USER, ASSISTANT, weight=1), FORMAT, 'Invalid file format. Example 2 contains an extra "weight".'),
    (chat(USER, ASSISTANT, answer="42"), FORMAT, 'Invalid file format. Example 2 contains an extra "answer".'),
    (chat(), FILE, "Invalid file format. Example 2, 'messages' must be an array of at least one message, "
                   "not an empty array"),
    (b'{"messages": "x"}', FILE, "Invalid file format. Example 2, 'messages' must be an array of at least one message, "
                                 "not a string"),
    (chat(USER, {"content": "x"}), FILE, m2(" Discriminator 'role' is missing in value")),
    (chat(USER, "x"), FILE, m2(" is not an object but a string")),
    (chat(USER, {"role": "robot", "content": "x"}), FILE,
     m2(" role 'robot' is not one of 'system', 'developer', 'user', 'assistant', 'tool', 'function'")),
    (chat(USER, {"role": None, "content": "x"}), FILE, m2(" 'role' must be a string, not null")),
    (chat(USER, {"role": ["user"], "content": "x"}), FILE, m2(" 'role' must be a string, not an array")),
    (chat(ASSISTANT, {"role": "user"}), FORMAT, m2(" is missing key 'content'.")),
    (chat(ASSISTANT, {"role": "user", "content": None}), FILE,
     m2(" 'content' must be a string or an array of text parts, not null")),
    (chat(ASSISTANT, {"role": "user", "content": 7}), FILE,
     m2(" 'content' must be a string or an array of text parts, not a number")),
    (chat(ASSISTANT, {"role": "user", "content": []}), FILE,
     m2(" 'content' must be a string or an array of text parts, not an empty array")),
    (chat(ASSISTANT, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}), FILE,
     m2(" contains an image, but the models served here read only text")),
    (chat(ASSISTANT, {"role": "user", "content": [{"type": "input_audio"}]}), FILE,
     m2(" 'content' holds a part of type 'input_audio', only 'text' can be used")),
    (chat(ASSISTANT, {"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}), FILE,
     m2(" 'content' holds a part of type 'refusal', only 'text' can be used")),
    (chat(ASSISTANT, {"role": "user", "content": ["x"]}), FILE,
     m2(" 'content' holds a string where a text part is expected")),
    (chat(ASSISTANT, {"role": "user", "content": [{"type": "text"}]}), FORMAT, m2(" is missing key 'text'.")),
    (chat(ASSISTANT, {"role": "user", "content": [{"type": "text", "text": 1}]}), FILE,
     m2(" 'text' must be a string, not a number")),
    (chat(ASSISTANT, {**USER, "weight": 1}), FORMAT, m2(' contains an extra "weight".')),
    (chat(ASSISTANT, {**USER, "name": 1}), FILE, m2(" 'name' must be a string, not a number")),
    (assistant(weight=0.5), FILE, m2(" 'weight' must be 0 or 1")),
    (assistant(weight=True), FILE, m2(" 'weight' must be 0 or 1")),
    (assistant(weight="1"), FILE, m2(" 'weight' must be 0 or 1")),
    (assistant(content=None), FILE, m2(" has neither content nor tool_calls")),
    (assistant(audio=None), FORMAT, m2(' contains an extra "audio".')),
    (assistant(refusal=7), FILE, m2(" 'refusal' must be a string, not a number")),
    (assistant(tool_calls=[]), FILE, m2(" 'tool_calls' must be an array of at least one call")),
    (assistant(tool_calls=[7]), FILE, m2(", tool call 1 is not an object but a number")),
    (assistant(tool_calls=[{**CALL, "index": 0}]), FORMAT, m2(', tool call 1 contains an extra "index".')),
    (assistant(tool_calls=[{**CALL, "id": ""}]), FILE, m2(", tool call 1 'id' must be a string that is not empty")),
    (assistant(tool_calls=[{**CALL, "type": "x"}]), FILE, m2(", tool call 1 'type' must be 'function'")),
    (calling(None), FILE, m2(", tool call 1 function must be an object, not null")),
    (calling({"name": "f"}), FORMAT, m2(", tool call 1 is missing key 'arguments'.")),
    (calling({"name": "f", "arguments": {}}), FILE,
     m2(", tool call 1 'arguments' must be a string that holds JSON, not an object")),
    (calling({"name": "f", "arguments": "{x"}), FILE,
     m2(", tool call 1 'arguments' contains invalid json: Expecting property name enclosed in double quotes "
        "at column 2")),
    (calling({"name": "f", "arguments": '{"a":1,"a":2}'}), FILE,
     m2(", tool call 1 'arguments' repeats the key 'a' in one object")),
    (calling({"name": "f", "arguments": "[" * 10_000}), FILE,
     m2(", tool call 1 'arguments' is nested deeper than 32 levels")),
    (calling({"name": "f", "arguments": "7"}), FILE,
     m2(", tool call 1 'arguments' must hold a JSON object, not a number")),
    (calling({"name": "a b", "arguments": "{}"}), FILE,
     m2(", tool call 1 name 'a b' must be 1 to 64 letters, digits, '_' or '-'")),
    (chat(USER, {"role": "assistant", "function_call": {"name": "f"}}), FORMAT,
     m2(" 'function_call' is missing key 'arguments'.")),
    (chat(ASSISTANT, {"role": "tool", "content": "x"}), FORMAT, m2(" is missing key 'tool_call_id'.")),
    (chat(ASSISTANT, {"role": "tool", "content": "x", "tool_call_id": "c9"}), FILE,
     m2(" 'tool_call_id' 'c9' answers no earlier tool call")),
    (chat(ASSISTANT, {"role": "tool", "content": "x", "tool_call_id": ["c9"]}), FILE,
     m2(" 'tool_call_id' an array answers no earlier tool call")),
    (chat(ASSISTANT, {"role": "function", "content": "x"}), FORMAT, m2(" is missing key 'name'.")),
    (chat(USER, ASSISTANT, tools={}), FILE, "Invalid file format. Example 2, 'tools' must be an array of at most 128 "
                                            "elements"),
    (chat(USER, ASSISTANT, tools=[{"type": "x"}]), FILE,
     "Invalid file format. Example 2, tool 1 must be an object with type 'function' and the function's description"),
    (chat(USER, ASSISTANT, tools=[{"type": "function", "function": {"name": "ü"}}]), FILE,
     "Invalid file format. Example 2, tool 1 name 'ü' must be 1 to 64 letters, digits, '_' or '-'"),
    (chat(USER, ASSISTANT, functions=[{"name": "f", "parameters": []}]), FILE,
     "Invalid file format. Example 2, function 1 'parameters' must be a JSON schema object, not an array"),
    (chat(USER, ASSISTANT, functions=[{"name": "f"}] * 129), FILE,
     "Invalid file format. Example 2, 'functions' must be an array of at most 128 elements"),
    (chat(USER, ASSISTANT, parallel_tool_calls="yes"), FILE,
     "Invalid file format. Example 2, 'parallel_tool_calls' must be a boolean, not a string"),
    (chat(USER), FILE, "Invalid file format. Example 2 has nothing to learn: it needs at least one assistant message "
                       "whose weight is not 0"),
    (assistant(weight=0), FILE, "Invalid file format. Example 2 has nothing to learn: it needs at least one assistant "
                                "message whose weight is not 0"),
    (b'{"prompt": "a", "completion": "b"}', FILE,
     "Invalid file format. Example 2 is in the fine-tune-completions format, but the examples before it are in the "
     "fine-tune-chat format"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "code", "message"), MISSHAPEN, ids=range(len(MISSHAPEN)))
def test_a_misshapen_example_is_explained(line: bytes, code: str, message: str) -> None:
    assert the_fault(line) == (code, message)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in PREFERENCE.items() if k != key}


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"x": 1}, "Unexpected file format, expected either prompt/completion pairs or chat messages."),
        ({"prompt": "a"}, "Invalid file format. Example 1 is missing key 'completion'."),
        (
            {"prompt": "a", "completion": 1},
            "Invalid file format. Example 1, 'completion' must be a string, not a number",
        ),
        (without("input"), "Invalid file format. Example 1 is missing key 'input'."),
        (without("preferred_output"), "Invalid file format. Example 1 is missing key 'preferred_output'."),
        (
            PREFERENCE | {"preferred_completion": [ASSISTANT]},
            "Invalid file format. Example 1 contains an extra \"preferred_output\".",
        ),
        (PREFERENCE | {"input": 1}, "Invalid file format. Example 1, 'input' must be an object, not a number"),
        (PREFERENCE | {"input": {}}, "Invalid file format. Example 1, 'input' is missing key 'messages'."),
        (
            PREFERENCE | {"input": {"messages": [ASSISTANT]}},
            "Invalid file format. Example 1, 'input' must not end with an assistant message: that is what the two "
            "outputs are for",
        ),
        (
            PREFERENCE | {"preferred_output": [USER]},
            "Invalid file format. Example 1, preferred_output message 1 role 'user' is not one of 'assistant', 'tool'",
        ),
    ],
)  # fmt: skip
def test_the_other_formats_are_held_to_their_rules(example: dict[str, Any], message: str) -> None:
    assert [fault.message for fault in check(json.dumps(example).encode()).faults] == [message]
