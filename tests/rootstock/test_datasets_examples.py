"""Reading a checked file: one modern shape for every spelling that the check accepts."""

import json
from typing import Any

import pytest

from rootstock.datasets import Example, read_examples
from rootstock.errors import JobFailure
from tests.rootstock.data import ASSISTANT, CALL, GOOD, PREFERENCE, USER, chat

LEARNED = {**ASSISTANT, "weight": 1}


def read(*lines: bytes) -> list[Example]:
    return list(read_examples(lines))


def messages_of(*messages: Any) -> Any:
    (example,) = read(chat(*messages))
    return example.messages


def test_examples_carry_their_real_line_numbers() -> None:
    lines = [b"\xef\xbb\xbf" + GOOD + b"\r\n", b" \r\n", b"\n", GOOD]
    assert read(*lines) == [Example(1, messages=[USER, LEARNED]), Example(4, messages=[USER, LEARNED])]


def test_prompt_and_completion_stay_as_they_are() -> None:
    assert read(b'{"prompt": "a ", "completion": " b"}') == [Example(1, prompt="a ", completion=" b")]


def test_every_assistant_message_has_its_weight_as_a_number() -> None:
    found = messages_of(
        {**ASSISTANT, "weight": 0}, {**ASSISTANT, "weight": 1.0}, {**ASSISTANT, "weight": None}, ASSISTANT
    )
    assert [repr(m["weight"]) for m in found] == ["0", "1", "1", "1"]


def test_a_single_text_part_is_a_string_and_several_stay_apart() -> None:
    part = {"type": "text", "text": "a"}
    one, two = messages_of({"role": "user", "content": [part]}, {"role": "assistant", "content": [part, part]})
    assert (one["content"], two["content"]) == ("a", [part, part])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "refusal": "No."},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ],
)
def test_a_refusal_is_what_the_assistant_says(message: dict[str, Any]) -> None:
    assert messages_of(message) == [{"role": "assistant", "content": "No.", "weight": 1}]


def test_tools_are_handed_on() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "7"}
    (example,) = read(
        chat({"role": "assistant", "tool_calls": [CALL]}, answer, tools=[tool], parallel_tool_calls=False)
    )
    assert example.messages == [{"role": "assistant", "content": None, "weight": 1, "tool_calls": [CALL]}, answer]
    assert (example.tools, example.parallel_tool_calls) == ([tool], False)


def test_deprecated_functions_become_tools() -> None:
    call = {"name": "f", "arguments": "{}"}
    (example,) = read(
        chat(
            USER,
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "f", "content": "7"},
            functions=[{"name": "f"}],
        )
    )
    assert example.tools == [{"type": "function", "function": {"name": "f"}}]
    assert example.messages and example.messages[1:] == [
        {
            "role": "assistant",
            "content": None,
            "weight": 1,
            "tool_calls": [{"id": "call_2", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_2", "name": "f", "content": "7"},
    ]


def test_developer_messages_are_kept() -> None:
    assert messages_of({"role": "developer", "content": "x"}, ASSISTANT)[0] == {"role": "developer", "content": "x"}


def test_absent_and_null_and_empty_read_the_same() -> None:
    assert read(chat(USER, ASSISTANT, tools=None, functions=None, parallel_tool_calls=None)) == read(GOOD)
    assert read(chat({**USER, "name": None}, {**ASSISTANT, "tool_calls": None}, tools=[])) == read(GOOD)


OLDER = {"preferred_completion": [ASSISTANT], "non_preferred_completion": [{"role": "assistant", "refusal": "No."}]}


@pytest.mark.parametrize("spelling", [("preferred_output", "non_preferred_output"), tuple(OLDER)])
def test_a_preference_is_what_was_asked_and_two_outputs_in_either_spelling(spelling: tuple[str, str]) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    asked = {"messages": [USER], "tools": [tool], "parallel_tool_calls": False}
    answers = dict(zip(reversed(spelling), reversed(OLDER.values()), strict=True))  # the worse one comes first
    line = json.dumps({**answers, "input": asked}).encode()
    assert read(line) == [
        Example(
            1,
            messages=[USER],
            tools=[tool],
            parallel_tool_calls=False,
            preferred=[LEARNED],
            non_preferred=[{"role": "assistant", "content": "No.", "weight": 1}],
        )
    ]


def test_examples_of_two_formats_in_one_file_fail_the_job_with_the_line() -> None:
    with pytest.raises(JobFailure, match="Line 2 is in the fine-tune-preference format, but the examples before it"):
        read(GOOD, json.dumps(PREFERENCE).encode())


@pytest.mark.parametrize("line", [b"{", b"\xff", b"{}", chat(USER), json.dumps(PREFERENCE).encode()])
def test_a_file_that_is_not_the_one_that_was_checked_fails_the_job(line: bytes) -> None:
    with pytest.raises(JobFailure) as caught:
        read(GOOD, line)
    assert caught.value.code in ("invalid_training_file", "invalid_file_format")
