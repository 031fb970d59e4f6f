"""The check of a training file while it streams by: format, examples, faults. Knows nothing about files' rows.

Nearly every line of a good file is accepted by `PlainChat`, at several times the speed of the full rules; any other
line goes through `parse` and `shapes`, which alone decide what is a fault and say so.
"""

import re
from typing import Any

import msgspec

from rootstock.datasets.lines import LineSplitter, NotUtf8
from rootstock.datasets.parse import Fault, parse_object
from rootstock.datasets.shapes import check_example, recognise
from rootstock.records import DataCheck, DataFault, DataFormat

MAX_KEPT_FAULTS = 100

BLANKS = b" \t\r"
"""A line of nothing else is no example."""


class Checker:
    """Feed it a file in chunks, then `finish()`. Memory is bounded by the chunk and by `max_line_bytes`.

    Example: `checker = Checker(1 << 20); checker.feed(data); checker.finish().examples`.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._lines = LineSplitter(max_line_bytes)
        self._max_line_bytes = max_line_bytes
        self._plain_chat = PlainChat()
        self._readable = True
        self._format: DataFormat | None = None
        self._count = 0  # lines that are not blank
        self._valid = 0
        self._faults: list[DataFault] = []
        self._faults_total = 0

    def feed(self, chunk: bytes) -> None:
        """Check the lines that this chunk completes. Never raises, whatever the bytes are."""
        if not self._readable:
            return
        try:
            for number, line in self._lines.feed(chunk):
                self._check_line(number, line)
        except NotUtf8:
            self._refuse_encoding()

    def finish(self) -> DataCheck:
        """What was found. The checker is used up."""
        try:
            if self._readable:
                for number, line in self._lines.finish():
                    self._check_line(number, line)
        except NotUtf8:
            self._refuse_encoding()
        return DataCheck(self._format, self._valid, tuple(self._faults), self._faults_total)

    def _check_line(self, number: int, line: bytes | None) -> None:
        if line is not None and not line.strip(BLANKS):
            return
        self._count += 1
        try:
            if line is None:
                raise Fault(f" cannot be parsed. Error: line is longer than {self._max_line_bytes} bytes")
            self._check_example(line)
            self._valid += 1
        except Fault as fault:
            self._add(number, fault)

    def _check_example(self, line: bytes) -> None:
        if self._format in (None, DataFormat.CHAT) and self._plain_chat.accepts(line):
            self._same_format(DataFormat.CHAT)
            return
        example = parse_object(line)
        form = recognise(example, self._format)
        self._same_format(form)
        check_example(example, form)

    def _same_format(self, form: DataFormat) -> None:
        if self._format is None:
            self._format = form
        elif form is not self._format:
            raise Fault(f" is in the {form} format, but the examples before it are in the {self._format} format")

    def _add(self, line: int, fault: Fault) -> None:
        self._faults_total += 1
        if len(self._faults) == MAX_KEPT_FAULTS:
            return
        text = fault.text if fault.whole else f"Invalid file format. Example {self._count}{fault.text}"
        # The live service names the line when it cannot parse it; we also do when blank lines shift the count.
        if line != self._count or " cannot be parsed." in fault.text[:18]:
            text += f" (line {line})"
        self._faults.append(DataFault(line, fault.code, text))

    def _refuse_encoding(self) -> None:
        self._readable = False
        self._count = 1
        self._add(1, Fault(" cannot be parsed. Error: file is not UTF-8 but looks like UTF-16 or UTF-32"))


class _Role:
    """Stands for a role; see `PlainChat`."""


class _Text:
    """Stands for a string; see `PlainChat`."""


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: _Role
    content: _Text


class _Chat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    messages: list[_Message]


class PlainChat:
    """Recognises the commonest good line: messages with nothing but a role and a string.

    It may only accept what the full rules accept too. A typed decode does not tell when a key appears twice, so each
    value passes through a hook: two roles in one message are one call too many. One checker per thread, for that
    reason.
    """

    _START = re.compile(rb'[ \t\r]*\{[ \t\r]*"messages"[ \t\r]*:[ \t\r]*\[[ \t\r]*\{')
    _ROLES = frozenset({"system", "developer", "user", "assistant"})

    def __init__(self) -> None:
        self._roles: list[str] = []
        self._texts: list[str] = []
        self._decode = msgspec.json.Decoder(_Chat, dec_hook=self._hook).decode

    def accepts(self, line: bytes) -> bool:
        """Whether the line is plainly a good chat example; if not, the full rules must decide."""
        # With the first array not empty, a second "messages" would show as messages that were seen and are gone.
        if not self._START.match(line):
            return False
        self._roles.clear()
        self._texts.clear()
        try:
            seen = len(self._decode(line).messages)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return (
            len(self._roles) == len(self._texts) == seen
            and self._ROLES.issuperset(self._roles)
            and "assistant" in self._roles
            and not any("\0" in text for text in self._texts)
        )

    def _hook(self, kind: type, value: Any) -> Any:
        if type(value) is not str:
            raise ValueError("not plain")  # msgspec makes a DecodeError of it
        (self._roles if kind is _Role else self._texts).append(value)
        return _STANDS_FOR[kind]


_STANDS_FOR: dict[type, Any] = {_Role: _Role(), _Text: _Text()}
