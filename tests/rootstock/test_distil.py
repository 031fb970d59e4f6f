"""What is asked and what is worth learning: pure functions, some of them held against all that hypothesis thinks of."""

import json
from typing import Any

import pytest
from hypothesis import example as example_of
from hypothesis import given, settings
from hypothesis import strategies as st

from rootstock.datasets import Checker
from rootstock.datasets.parse import Fault
from rootstock.distil import Answer, Outcome, Prompt, draw, example, look, near_duplicates
from rootstock.records import DataFormat

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def ask(*texts: str, **more: Any) -> Prompt:
    return Prompt([{"role": "user", "content": text} for text in texts], **more)


def say(text: str | None, reason: str = "stop", **more: Any) -> Answer:
    return Answer({"role": "assistant", "content": text} | more, reason)


@given(st.lists(st.integers(0, 20)), st.integers(1, 30), st.integers(0, 2**31))
def test_a_draw_is_repeatable_and_takes_each_question_once(numbers: list[int], most: int, seed: int) -> None:
    source = [None if number == 13 else ask(str(number)) for number in numbers]
    drawn = draw(lambda: source, most, seed)
    chosen = list(drawn.of(source))
    different = {number for number in numbers if number != 13}
    assert len(chosen) == min(most, len(different)) == len({prompt.digest for _, prompt in chosen})
    assert all(source[place - 1] == prompt for place, prompt in chosen)
    assert drawn.invalid == numbers.count(13) and drawn.left_out == len(different) - len(chosen)
    assert len(numbers) == drawn.invalid + drawn.repeated + drawn.left_out + len(chosen)
    assert draw(lambda: iter(source), most, seed).chosen == drawn.chosen


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@example_of({"content": "\0"}, None)
@example_of({"content": "half a \ud83d character"}, "stop")
@settings(max_examples=30)
@given(
    st.dictionaries(st.sampled_from(["content", "tool_calls", "refusal", "role"]), json_values), st.text() | st.none()
)
def test_whatever_a_teacher_says_comes_to_an_outcome_and_kept_lines_are_readable(
    message: dict[str, Any], reason: str | None
) -> None:
    prompt, answer = ask("hi"), Answer(message, reason)
    if look(prompt, answer) is Outcome.KEPT:
        checker = Checker(1 << 20)
        checker.feed(json.dumps(example(prompt, answer)).encode() + b"\n")
        found = checker.finish()
        assert (found.format, found.examples, found.faults) == (DataFormat.CHAT, 1, ())


@settings(max_examples=30)
@given(json_values)
def test_any_line_is_a_prompt_or_a_fault(line: Any) -> None:
    try:
        prompt = Prompt.read(json.dumps({"messages": line, "x": line}).encode())
    except Fault:
        return
    assert Prompt.from_json(prompt.to_json()) == prompt and prompt.digest == Prompt.from_json(prompt.to_json()).digest


SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "required": ["a"]}}}


@pytest.mark.parametrize(
    ("prompt", "answer", "outcome"),
    [
        (ask("q"), say("Yes."), Outcome.KEPT),
        (ask("q"), say("I can't wait to tell you: yes."), Outcome.KEPT),
        (ask("q"), say("I\u2019m sorry, but I cannot assist with that."), Outcome.REFUSAL),
        (ask("q"), say("As an AI, I can't discuss that."), Outcome.REFUSAL),
        (ask("q"), say(None, refusal="No."), Outcome.REFUSAL),
        (ask("q"), say("Yes.", "content_filter"), Outcome.REFUSAL),
        (ask("q"), say("Yes, it", "length"), Outcome.TRUNCATED),
        (ask("q"), say(" \n"), Outcome.EMPTY),
        (ask("q"), Answer({}, None, "HTTP status 400"), Outcome.TEACHER_ERROR),
        (ask("q", response_format={"type": "json_object"}), say("[1]"), Outcome.INVALID_FORMAT),
        (ask("q", response_format=SCHEMA), say('{"b": 1}'), Outcome.INVALID_FORMAT),
        (ask("q", response_format=SCHEMA), say('{"a": 1}'), Outcome.KEPT),
        (
            ask("q", response_format={"type": "json_schema", "json_schema": {"schema": {"type": 3}}}),
            say("{}"),
            Outcome.INVALID_FORMAT,
        ),
        (
            ask("q"),
            say(None, tool_calls=[{"id": None, "function": {"name": "f", "arguments": "{}"}}]),
            Outcome.INVALID_EXAMPLE,
        ),
        (
            ask("q", tools=TOOLS),
            say(None, tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}]),
            Outcome.KEPT,
        ),
    ],
)
def test_outcomes(prompt: Prompt, answer: Answer, outcome: Outcome) -> None:
    assert look(prompt, answer) is outcome


def test_refusals_may_be_wanted() -> None:
    assert look(ask("q"), say("I'm sorry, but I can't help with that."), refusals=False) is Outcome.KEPT


def test_personal_data_may_be_unwanted() -> None:
    for prompt, answer in (
        (ask("mail jane.miller@gmail.com"), say("ok")),
        (ask("q"), say("Write to jane.miller@gmail.com")),
    ):
        assert look(prompt, answer) is Outcome.KEPT
        assert look(prompt, answer, pii=True) is Outcome.PII
    assert look(ask("q"), say("ok"), pii=True) is Outcome.KEPT


def test_alike_means_question_and_answer() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    pairs = [(1, text, "a"), (2, text + " x", "b"), (3, text + " y", "a"), (4, "quite another thing", "a")]
    assert near_duplicates(pairs, 0.8) == {3}
    assert near_duplicates(pairs, 1.0) == set()
