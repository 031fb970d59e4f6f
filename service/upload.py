"""What `POST /v1/files` sends: a file, its purpose and when it expires. Knows the file rules; nothing about rows."""

from collections.abc import Callable

from rootstock import files
from rootstock.errors import InvalidType, InvalidValue, MissingParameter
from rootstock.inspection import Inspected, Inspection
from rootstock.settings import Settings
from rootstock.storage import Writer
from service.multipart import StreamedFile


class Upload(StreamedFile):
    """A whole file in one body, inspected while it streams by.

    Example: `upload = await receive(request, lambda: Upload(...))`; then `upload.inspected().sha256`.
    """

    other_fields = ("purpose", "expires_after[anchor]", "expires_after[seconds]")

    def __init__(self, content_type: str, open_writer: Callable[[], Writer], settings: Settings) -> None:
        super().__init__(content_type, open_writer)
        self.purpose = ""
        self.expires_after: int | None = None
        self._settings = settings
        self._inspection: Inspection | None = None

    def limit(self) -> tuple[str, int]:
        """Batch inputs have a limit of their own, once the purpose is known."""
        if self.fields.get("purpose") == "batch":
            return "batch input file", min(self._settings.max_batch_file_bytes, self._settings.max_file_bytes)
        return "file", self._settings.max_file_bytes

    def began(self) -> None:
        """Check the purpose and the file's name, as far as they are known."""
        purpose = self.fields.get("purpose")
        if purpose is not None:
            files.check_purpose(purpose)
            if self.filename is not None:
                files.check_extension(self.filename, purpose)
        if self.filename is not None and self._inspection is None:
            # The purpose may still follow; what is checked in vain is only forgotten.
            lines = purpose in (None, "fine-tune")
            self._inspection = Inspection(lines=lines, md5=False, max_line_bytes=self._settings.max_line_bytes)

    def took(self, data: bytes) -> None:
        """Look at what was stored."""
        assert self._inspection is not None
        self._inspection.feed(data)

    def check(self) -> None:
        """Refuse a file without a purpose or with half an expiry."""
        if "purpose" not in self.fields:
            raise MissingParameter("Missing required parameter: 'purpose'.", param="purpose")
        self.purpose = self.fields["purpose"]
        self.expires_after = self._expiry()

    def inspected(self) -> Inspected:
        """What the content is; once, after `finish`."""
        assert self._inspection is not None
        return self._inspection.finish()

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
        least, most = files.MIN_EXPIRY_SECONDS, files.MAX_EXPIRY_SECONDS
        if not least <= int(str(seconds)[:9]) <= most:
            raise InvalidValue(f"Invalid '{param}': expected a value from {least} to {most}.", param=param)
        return int(str(seconds))
