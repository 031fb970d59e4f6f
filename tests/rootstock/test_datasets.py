"""The check of training files as a stream: line ends, encodings, limits, counting, and what its messages may show."""

import json
import tracemalloc

import pytest

from rootstock.datasets import Checker, check_from_json, check_to_json
from rootstock.records import DataCheck, DataFormat
from tests.rootstock.data import ASSISTANT, GOOD, USER, calling, chat, check


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \t\r\n\n"])
@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\n\n", b"\n  \r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_blank_lines_and_a_bom_do_not_matter(bom: bytes, between: bytes, end: bytes) -> None:
    assert check(bom + GOOD + between + GOOD + end) == DataCheck(DataFormat.CHAT, 2)


def test_examples_are_counted_without_blank_lines_and_the_line_is_named_when_they_differ() -> None:
    found = check(b"\n\n" + GOOD + b"\n\n" + chat(USER))
    assert found.faults[0].line == 5
    assert found.faults[0].message.startswith("Invalid file format. Example 2 has nothing to learn")
    assert found.faults[0].message.endswith("(line 5)")


@pytest.mark.parametrize("data", [b"", b"\n", b"\n\r\n  \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_an_empty_file_has_no_examples_and_no_faults(data: bytes) -> None:
    assert check(data) == DataCheck(None, 0)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_utf16_is_said_once_instead_of_on_every_line(encoding: str) -> None:
    found = check("\n".join([GOOD.decode()] * 20).encode(encoding))
    assert [fault.message for fault in found.faults] == [
        "Invalid file format. Example 1 cannot be parsed. Error: file is not UTF-8 but looks like UTF-16 or UTF-32 "
        "(line 1)"
    ]
    assert found.examples == 0


def test_pretty_printed_json_is_explained_at_its_first_line() -> None:
    found = check(json.dumps([json.loads(GOOD)], indent=2).encode())
    assert "write each example on one line" in found.faults[0].message


def test_the_first_hundred_faults_are_kept_and_all_are_counted() -> None:
    found = check(b"{}\n" * 250 + GOOD)
    assert (len(found.faults), found.faults_total, found.examples) == (100, 250, 1)
    assert found.faults[-1].line == 100


def test_a_line_is_refused_one_byte_over_the_limit_and_the_rest_goes_on() -> None:
    limit = len(GOOD)
    assert check(GOOD + b"\n" + GOOD, limit).examples == 2
    found = check(b" " + GOOD + b"\n" + GOOD + b"\n" + GOOD + b" ", limit)
    assert found.examples == 1
    assert [(fault.line, fault.message) for fault in found.faults] == [
        (n, f"Invalid file format. Example {n} cannot be parsed. Error: line is longer than {limit} bytes (line {n})")
        for n in (1, 3)
    ]


def test_an_endless_line_is_checked_in_bounded_memory() -> None:
    chunk = b"x" * (1 << 16)
    checker = Checker(1 << 17)
    tracemalloc.start()
    for _ in range(512):  # 32 MB without a line feed
        checker.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    checker.feed(b"\n" + GOOD)
    found = checker.finish()
    assert (found.examples, found.faults_total) == (1, 1)
    assert peak < 1 << 20


@pytest.mark.parametrize("text", ["x" * 100_000, "\n\x1b[31m\0" * 1000, "\ud800" * 100, "\u202e" * 100])
def test_messages_show_little_of_the_users_text_and_only_printable(text: str) -> None:
    spoiled = [
        chat(USER, {"role": text, "content": "x"}),
        chat(USER, ASSISTANT, **{text: 1}),
        chat(USER, {**ASSISTANT, text: 1}),
        b'{"a": 1, %s: 1, %s: 2}' % (json.dumps(text).encode(), json.dumps(text).encode()),
        calling({"name": text, "arguments": "{}"}),
        calling({"name": "f", "arguments": text}),
        chat(ASSISTANT, {"role": "tool", "content": "x", "tool_call_id": text}),
        chat(ASSISTANT, {"role": "user", "content": [{"type": text}]}),
    ]
    for line in spoiled:
        (fault,) = check(line).faults
        assert len(fault.message) < 300
        assert fault.message.isprintable()


def test_a_check_survives_being_stored() -> None:
    for found in (check(b""), check(GOOD), check(b"{}\n" * 3)):
        assert check_from_json(json.loads(json.dumps(check_to_json(found)))) == found
