"""Properties of the check and the reader: any bytes, any chunking, every valid conversation."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from rootstock.datasets import Checker, check_from_json, check_to_json, judge, read_examples
from rootstock.records import DataCheck, DataFormat
from tests.rootstock.data import ASSISTANT, CALL, GOOD, PREFERENCE, USER, chat, check

MAX_LINE = 300

# Text that a strict reader takes: no lone surrogates, no NUL.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
SHAKEN = st.sampled_from(
    [
        GOOD, b"\n", b"\r\n", b"\r", b" ", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"[", b"]", b"{", b"}", b'"', b",",
        b":", b"\\", b"\\u0000", b"\\ud800", b"NaN", b"1e999", b"9" * 400, b"[" * 2000, b'{"a":' * 2000, b"x" * 400,
        b'"role"', b'"content"', b'"messages"', b'{"role":"user"', b',"role":"assistant"', b'"c\\u006fntent"',
        json.dumps(PREFERENCE).encode(), b'{"prompt":"a","completion":"b"}', chat(USER), chat(USER, ASSISTANT, x=1),
        chat(USER, {"role": "assistant", "tool_calls": [CALL]}),
    ]
)  # fmt: skip
FILES = st.lists(SHAKEN | st.binary(max_size=12), max_size=12).map(b"".join)


def check_in_chunks(data: bytes, sizes: list[int]) -> DataCheck:
    checker = Checker(MAX_LINE)
    for size in sizes:
        checker.feed(data[:size])
        data = data[size:]
    checker.feed(data)
    return checker.finish()


@given(FILES, st.lists(st.integers(0, 60), max_size=20))
@example(b"\xef\xbb\xbf" + GOOD, [1, 1, 1, 1])
@example(b"\xff\xfe", [1])
@example(GOOD + b"\r\n" + GOOD, [len(GOOD), 1, 1])
def test_any_bytes_in_any_chunking_give_the_same_check(data: bytes, sizes: list[int]) -> None:
    found = check_in_chunks(data, sizes)
    assert found == check(data, MAX_LINE)
    assert len(found.faults) == min(found.faults_total, 100)
    assert all(0 < len(fault.message) < 400 and fault.message.isprintable() for fault in found.faults)
    stored = json.dumps(check_to_json(found), ensure_ascii=False).encode()  # no surrogates, or this fails
    assert check_from_json(json.loads(stored)) == found


@given(FILES)
def test_any_check_can_be_judged(data: bytes) -> None:
    found = check(data, MAX_LINE)
    failure = judge(found, role="training", file_id="file-x", method="supervised")
    assert failure is not None or found.examples >= 10


@st.composite
def shaken_lines(draw: st.DrawFn) -> bytes:
    """A good line in which a few places were overwritten, repeated or removed: nearly good, in every wrong way."""
    line = GOOD if draw(st.booleans()) else chat({"role": "system", "content": draw(TEXT)}, USER, ASSISTANT)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(line)))
        stop = draw(st.integers(start, min(len(line), start + 30)))
        line = line[:start] + draw(SHAKEN | st.just(line[start:stop] * 2) | st.binary(max_size=3)) + line[stop:]
    return line.replace(b"\n", b"")


@given(shaken_lines())
@example(b'{"messages":[{"role":"user","role":"assistant","content":"x"}]}')
@example(b'{"messages":[{"content":"y","role":"assistant","content":"x"}]}')
@example(b'{"messages":[{"role":"assistant","content":"x"}],"messages":[{"role":"assistant","content":"x"}]}')
@example(b'{"messages":[],"messages":[{"role":"assistant","content":"x"}]}')
@example(b'{"messages":[{"role":"assistant","content":"x"}],"mess\\u0061ges":[{"role":"assistant","content":"x"}]}')
def test_whatever_the_check_accepts_the_trainer_reads(line: bytes) -> None:
    # The check takes a short cut for plain lines, the reader never does: the two must not disagree.
    found = check(line)
    if found.faults_total == 0:
        assert len(list(read_examples([line]))) == found.examples


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Valid messages in the reader's own shape, so that reading them must give them back."""
    messages: list[dict[str, Any]] = []
    open_calls: list[str] = []
    for _ in range(draw(st.integers(1, 5))):
        role = draw(st.sampled_from(["system", "developer", "user", "assistant", "tool"]))
        message: dict[str, Any] = {"role": role, "content": draw(TEXT)}
        if role == "assistant":
            message["weight"] = draw(st.sampled_from([0, 1]))
            if draw(st.booleans()):
                open_calls.append(draw(NAMES))
                arguments = json.dumps(draw(st.dictionaries(TEXT, TEXT | st.integers(), max_size=2)))
                function = {"name": draw(NAMES), "arguments": arguments}
                message["tool_calls"] = [{"id": open_calls[-1], "type": "function", "function": function}]
        elif role == "tool":
            if not open_calls:
                continue
            message["tool_call_id"] = draw(st.sampled_from(open_calls))
        elif draw(st.booleans()):
            message["name"] = draw(TEXT)
        messages.append(message)
    return [*messages, {"role": "assistant", "content": draw(TEXT), "weight": 1}]


@given(st.lists(conversations(), min_size=1, max_size=4), st.booleans(), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_every_valid_conversation_is_accepted_and_read_back(
    files: list[list[dict[str, Any]]], ascii_only: bool, end: bytes
) -> None:
    lines = [json.dumps({"messages": messages}, ensure_ascii=ascii_only).encode() for messages in files]
    data = end.join(lines) + end
    assert check(data) == DataCheck(DataFormat.CHAT, len(files))
    assert [e.messages for e in read_examples(data.splitlines(keepends=True))] == files
