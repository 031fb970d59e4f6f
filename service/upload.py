"""One multipart upload, taken apart as it arrives. Bounded memory whatever the size; fields in any order.

Knows the multipart format and the file rules; nothing about rows or HTTP answers.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from rootstock import files
from rootstock.datasets import Checker
from rootstock.errors import (
    InvalidRequest,
    InvalidType,
    InvalidValue,
    MissingParameter,
    PayloadTooLarge,
    UnknownParameter,
)
from rootstock.records import DataCheck
from rootstock.storage import Writer

FLUSH_BYTES = 1024 * 1024
MAX_FIELD_BYTES = 8 * 1024
MAX_PARTS = 16
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
MIN_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS = 3600, 2_592_000


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What a complete upload was."""

    filename: str
    purpose: str
    size: int
    sha256: str
    check: DataCheck | None
    expires_seconds: int | None

    @property
    def identity(self) -> list[str | int | None]:
        """What makes two uploads the same one."""
        return [self.sha256, self.purpose, self.filename, self.expires_seconds]


class Upload:
    """Feed it the request body, flush it off the event loop whenever it is `full`, then `finish`.

    Example: `upload.feed(chunk)`; `if upload.full: await to_thread(upload.flush)`. An upload that does not get to
    `finish` must be `abort`ed; its object was never visible.
    """

    def __init__(
        self,
        content_type: str,
        open_writer: Callable[[], Writer],
        *,
        max_file_bytes: int,
        max_batch_file_bytes: int,
        max_line_bytes: int,
    ) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest("Invalid Content-Type: a file is uploaded as multipart/form-data with a boundary.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self._open_writer = open_writer
        self._max_file_bytes = max_file_bytes
        self._max_batch_file_bytes = min(max_batch_file_bytes, max_file_bytes)
        self._max_line_bytes = max_line_bytes
        self._writer: Writer | None = None
        self._checker: Checker | None = None
        self._digest = hashlib.sha256()
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
        """Hand what has gathered to the store, the digest and the line checker. Blocks."""
        if self.filename is None:
            return
        if self._writer is None:
            self._writer = self._open_writer()
        data = bytes(self._pending)
        self._pending.clear()
        self._writer.write(data)
        self._digest.update(data)
        if self._checker is not None:
            self._checker.feed(data)

    def finish(self) -> Uploaded:
        """Check that everything is there and make the object visible. Blocks."""
        if not self._ended:
            raise InvalidRequest("The multipart body ended before its closing boundary.")
        if self.filename is None:
            raise MissingParameter("Missing required parameter: 'file'.", param="file")
        purpose = self._purpose()
        if purpose is None:
            raise MissingParameter("Missing required parameter: 'purpose'.", param="purpose")
        files.check_extension(self.filename, purpose)
        expires = self._expiry()
        self.flush()
        checked = self._checker.finish() if self._checker is not None and purpose == "fine-tune" else None
        assert self._writer is not None
        self._writer.close()
        return Uploaded(self.filename, purpose, self.size, self._digest.hexdigest(), checked, expires)

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
        if name == "file":
            self._begin_file(options.get(b"filename"))
        elif name not in FIELDS:
            raise UnknownParameter(f"Unrecognized request argument supplied: {name[:64]}", param=name[:64])
        elif name in self.fields:
            raise InvalidRequest(f"Duplicate parameter: '{name}'.", param=name)
        self._part = name
        self._field.clear()

    def _begin_file(self, filename: bytes | None) -> None:
        if self.filename is not None:
            raise InvalidRequest("More than one 'file' was sent; upload them one by one.", param="file")
        if filename is None:
            raise InvalidType("Invalid type for 'file': expected a file, but got a string instead.", param="file")
        self.filename = filename.decode("utf-8", "replace")
        purpose = self._purpose()
        if purpose is not None:
            files.check_extension(self.filename, purpose)
        if purpose in (None, "fine-tune"):
            # The purpose may still follow; what is checked in vain is only forgotten.
            self._checker = Checker(max_line_bytes=self._max_line_bytes)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "file":
            self.size += end - start
            self._check_size()
            self._pending += memoryview(data)[start:end]
        else:
            self._field += data[start:end]
            if len(self._field) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"'{self._part}' is too long.", param=self._part)

    def _end_part(self) -> None:
        if self._part is not None and self._part != "file":
            self.fields[self._part] = self._field.decode("utf-8", "replace")
            self._purpose()
            self._check_size()

    def _end(self) -> None:
        self._ended = True

    def _check_size(self) -> None:
        batch = self.fields.get("purpose") == "batch"
        limit = self._max_batch_file_bytes if batch else self._max_file_bytes
        if self.size > limit:
            what = "batch input file" if batch else "file"
            raise PayloadTooLarge(f"The {what} is larger than the limit of {limit} bytes.", param="file")

    def _purpose(self) -> str | None:
        purpose = self.fields.get("purpose")
        if purpose is not None:
            files.check_purpose(purpose)
        return purpose

    def _expiry(self) -> int | None:
        anchor, seconds = (self.fields.get(f"expires_after[{part}]") for part in ("anchor", "seconds"))
        if anchor is None and seconds is None:
            return None
        for part, value in (("anchor", anchor), ("seconds", seconds)):
            if value is None:
                name = f"expires_after.{part}"
                raise MissingParameter(f"Missing required parameter: '{name}'.", param=name)
        if anchor != "created_at":
            raise InvalidValue(
                "Invalid value for 'expires_after.anchor': use 'created_at'.", param="expires_after.anchor"
            )
        param = "expires_after.seconds"
        if not str(seconds).isascii() or not str(seconds).isdigit():
            raise InvalidType(f"Invalid type for '{param}': expected an integer.", param=param)
        if not MIN_EXPIRY_SECONDS <= int(str(seconds)[:9]) <= MAX_EXPIRY_SECONDS:
            raise InvalidValue(
                f"Invalid '{param}': expected a value from {MIN_EXPIRY_SECONDS} to {MAX_EXPIRY_SECONDS}.", param=param
            )
        return int(str(seconds))
