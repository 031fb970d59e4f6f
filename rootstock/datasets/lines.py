"""Bytes in any chunks -> numbered lines, in memory bounded by the longest line allowed. Knows nothing about JSON."""

from collections.abc import Iterator

BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 4


class NotUtf8(Exception):
    """The first bytes are those of UTF-16 or UTF-32: there are no lines to find."""


class LineSplitter:
    """Cuts a stream at line feeds; every chunking of the same bytes gives the same lines.

    One byte-order mark at the very start is dropped. A line longer than `max_line_bytes` comes out as `None`.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._head: bytearray | None = bytearray()  # the first bytes, until there are enough to know the encoding
        self._tail = bytearray()  # the line that the last chunk left unfinished
        self._overlong = False  # ... which is already longer than allowed: the rest of it is dropped
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that `chunk` completes, each with its number.

        Raises `NotUtf8`, after which nothing more may be fed.
        """
        if self._head is not None:
            self._head += chunk
            if len(self._head) < _HEAD_BYTES:
                return
            chunk = self._start()
        first, *rest = chunk.split(b"\n")
        self._extend(first)
        if not rest:
            return
        yield self._finished()
        last = rest.pop()
        for line in rest:
            self._number += 1
            yield self._number, line if len(line) <= self._max else None
        self._extend(last)

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, when the stream does not end with a line feed. Raises `NotUtf8` like `feed`."""
        if self._head is not None:
            yield from self.feed(b"\n" * (_HEAD_BYTES - len(self._head)))  # blank lines at the end change nothing
        if self._tail or self._overlong:
            yield self._finished()

    def _start(self) -> bytes:
        assert self._head is not None
        head, self._head = bytes(self._head), None
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head[:_HEAD_BYTES]:
            raise NotUtf8
        return head.removeprefix(BOM)

    def _extend(self, piece: bytes) -> None:
        self._overlong = self._overlong or len(self._tail) + len(piece) > self._max
        if self._overlong:
            self._tail.clear()
        else:
            self._tail += piece

    def _finished(self) -> tuple[int, bytes | None]:
        line = None if self._overlong else bytes(self._tail)
        self._tail.clear()
        self._overlong = False
        self._number += 1
        return self._number, line
