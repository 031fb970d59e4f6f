"""A multipart body with one file and some short fields, taken apart as it arrives and streamed to the store.

Bounded memory whatever the size; fields in any order. Knows the multipart format and how a refusal reaches the client;
nothing about what the file is for.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import ClassVar, TypeVar

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from rootstock.errors import (
    InvalidRequest,
    InvalidType,
    MissingParameter,
    PayloadTooLarge,
    RootstockError,
    StoreError,
    UnknownParameter,
)
from rootstock.storage import Store, Writer

log = logging.getLogger(__name__)

FLUSH_BYTES = 1024 * 1024
MAX_FIELD_BYTES = 8 * 1024
MAX_PARTS = 16
DRAIN_SECONDS = 2.0
DRAIN_BYTES = 64 * 1024 * 1024

F = TypeVar("F", bound="StreamedFile")


class StreamedFile:
    """Feed it the request body, flush it off the event loop whenever it is `full`, then `finish`; or use `receive`.

    A body that does not get to `finish` must be `abort`ed; its object was never visible. Subclasses say what the file
    is for through `limit`, `began`, `took` and `check`.
    """

    file_field: ClassVar[str] = "file"
    other_fields: ClassVar[Collection[str]] = ()

    def __init__(self, content_type: str, open_writer: Callable[[], Writer]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest("Invalid Content-Type: a file is uploaded as multipart/form-data with a boundary.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self._open_writer = open_writer
        self._writer: Writer | None = None
        self._pending = bytearray()
        self._parts = 0
        self._part: str | None = None
        self._field = bytearray()
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._on_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"The multipart body could not be read: {error}.") from None

    def limit(self) -> tuple[str, int]:
        """What this is called in messages, and its largest size in bytes as far as is known by now."""
        raise NotImplementedError

    def began(self) -> None:
        """The name of the file, or a field, is known now: refuse early what can be refused."""

    def took(self, data: bytes) -> None:
        """These bytes of the file went to the store. May block."""

    def check(self) -> None:
        """Everything has arrived: refuse what may not become visible."""

    @property
    def full(self) -> bool:
        """Whether enough has gathered to be worth a trip to the store."""
        return len(self._pending) >= FLUSH_BYTES

    def feed(self, chunk: bytes) -> None:
        """Parse the next piece of the body; cheap, does no I/O. Raises what makes the upload impossible."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"The multipart body could not be read: {error}.") from None

    def flush(self) -> None:
        """Hand what has gathered to the store. Blocks."""
        if self.filename is None:
            return
        if self._writer is None:
            self._writer = self._open_writer()
        data = bytes(self._pending)
        self._pending.clear()
        self._writer.write(data)
        self.took(data)

    def finish(self) -> None:
        """Check that everything is there and make the object visible. Blocks."""
        if not self._ended:
            raise InvalidRequest("The multipart body ended before its closing boundary.")
        if self.filename is None:
            raise MissingParameter(f"Missing required parameter: '{self.file_field}'.", param=self.file_field)
        self.check()
        self.flush()
        assert self._writer is not None
        self._writer.close()

    def abort(self) -> None:
        """Discard everything; does nothing after `finish`."""
        if self._writer is not None:
            self._writer.abort()

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"The multipart body has more than {MAX_PARTS} parts.")
        self._headers = {}
        self._part = None

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == self.file_field:
            self._begin_file(options.get(b"filename"))
        elif name not in self.other_fields:
            raise UnknownParameter(f"Unrecognized request argument supplied: {name[:64]}", param=name[:64])
        elif name in self.fields:
            raise InvalidRequest(f"Duplicate parameter: '{name}'.", param=name)
        self._part = name
        self._field.clear()

    def _begin_file(self, filename: bytes | None) -> None:
        name = self.file_field
        if self.filename is not None:
            raise InvalidRequest(f"More than one '{name}' was sent; upload them one by one.", param=name)
        if filename is None:
            raise InvalidType(f"Invalid type for '{name}': expected a file, but got a string instead.", param=name)
        self.filename = filename.decode("utf-8", "replace")
        self.began()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == self.file_field:
            self.size += end - start
            self._check_size()
            self._pending += memoryview(data)[start:end]
        else:
            self._field += data[start:end]
            if len(self._field) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"'{self._part}' is too long.", param=self._part)

    def _end_part(self) -> None:
        if self._part is not None and self._part != self.file_field:
            self.fields[self._part] = self._field.decode("utf-8", "replace")
            self.began()
            self._check_size()

    def _check_size(self) -> None:
        what, limit = self.limit()
        if self.size > limit:
            raise PayloadTooLarge(f"The {what} is larger than the limit of {limit} bytes.", param=self.file_field)

    def _end(self) -> None:
        self._ended = True


async def receive(request: Request, admission: Awaitable[None], make: Callable[[], F]) -> F:
    """Stream the request's body into what `make` (called off the event loop) returns; its object is visible then.

    Whatever is refused on the way, also by `admission` and `make`, leaves nothing behind, and the refusal reaches
    clients that read only after writing.
    """
    body = request.stream()
    form: F | None = None
    try:
        await admission
        form = await run_in_threadpool(make)
        async for chunk in body:
            form.feed(chunk)
            if form.full:
                await run_in_threadpool(form.flush)
        await run_in_threadpool(form.finish)
        return form
    except RootstockError:
        request.state.close = not await _drained(body)
        raise
    finally:
        if form is not None:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(form.abort)


def discard(store: Store, object_key: str) -> None:
    """Remove an object that no row will ever name; a store that is away keeps it."""
    try:
        store.delete(object_key)
    except StoreError as error:
        log.warning("an object without a row stays in the store: %s", error.message)


async def _drained(body: AsyncIterator[bytes]) -> bool:
    """Take some of what is still being sent; false when there was more than that: then the connection is closed."""
    taken = 0
    with anyio.move_on_after(DRAIN_SECONDS):
        async for chunk in body:
            taken += len(chunk)
            if taken > DRAIN_BYTES:
                return False
        return True
    return False
