"""The input file of a batch: its lines, and whether they can be run at all. Knows no database and no store.

Nothing here holds more than a line and a digest per line.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootstock.datasets.lines import LineSplitter, NotUtf8
from rootstock.errors import InvalidRequest
from rootstock.storage.base import read_file
from service.deps import parse
from service.wire_batches import BatchLine

MAX_ERRORS = 100
NOT_JSON = "This line is not parseable as valid JSON."
TWICE = (
    "The custom_id for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
OTHER_URL = "The URL provided for this request does not match the batch endpoint."
OTHER_MODEL = (
    "The model for this request does not match the rest of the batch. "
    "Each batch must contain requests for a single model."
)
EMPTY = "The batch input file is empty. Please ensure that the file contains at least one request."


@dataclass(slots=True)
class Verdict:
    """What reading the whole input found: the one model and the number of lines, or what is wrong."""

    model: str = ""
    total: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, code: str, message: str, param: str | None = None, line: int | None = None) -> None:
        """Add to the errors of the batch."""
        self.errors.append({"code": code, "message": message, "param": param, "line": line})


def lines(path: Path, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines that hold anything, with their 1-based numbers; `None` for one that is too long.

    A file in another encoding is one line that cannot be read.
    """
    splitter = LineSplitter(max_line_bytes)
    try:
        for chunk in read_file(path):
            yield from _filled(splitter.feed(chunk))
        yield from _filled(splitter.finish())
    except NotUtf8:
        yield 1, b"not UTF-8"


def judge(path: Path, *, endpoint: str, max_lines: int, max_line_bytes: int) -> Verdict:
    """Read the whole input: every line has the right form, one model, the batch's url and an id of its own."""
    verdict = Verdict()
    ids: set[bytes] = set()
    for number, data in lines(path, max_line_bytes):
        verdict.total += 1
        if verdict.total > max_lines:
            text = f"The batch input file has more than {max_lines} requests, which is the limit."
            verdict.fault("too_many_tasks", text)
            break
        if data is None:
            text = f"This line is longer than the limit of {max_line_bytes} bytes."
            verdict.fault("invalid_json_line", text, line=number)
        else:
            _judge_line(verdict, number, data, endpoint, ids)
        if len(verdict.errors) >= MAX_ERRORS:
            break
    if not verdict.total:
        verdict.fault("empty_file", EMPTY)
    return verdict


def _judge_line(verdict: Verdict, number: int, data: bytes, endpoint: str, ids: set[bytes]) -> None:
    try:
        line = parse(BatchLine, data)
    except InvalidRequest as error:
        unreadable = error.code is None
        text = NOT_JSON if unreadable else error.message
        verdict.fault("invalid_json_line" if unreadable else str(error.code), text, error.param, number)
        return
    digest = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
    if digest in ids:
        verdict.fault("duplicate_custom_id", TWICE, "custom_id", number)
    ids.add(digest)
    if line.url != endpoint:
        verdict.fault("url_mismatch", OTHER_URL, "url", number)
    model = line.body.get("model")
    if not isinstance(model, str) or not model:
        verdict.fault("missing_required_parameter", "Missing required parameter: 'body.model'.", "body.model", number)
    elif verdict.model and model != verdict.model:
        verdict.fault("model_mismatch", OTHER_MODEL, "body.model", number)
    else:
        verdict.model = model


def _filled(numbered: Iterable[tuple[int, bytes | None]]) -> Iterator[tuple[int, bytes | None]]:
    return ((number, data) for number, data in numbered if data is None or data.strip())
