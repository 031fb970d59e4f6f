"""`rootstock advise`: examples of a file sent for advice, and the answer in lines. Knows the API only."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rootstock import ids
from rootstock.cli.exporting import Server
from rootstock.cli.terminal import Lines
from rootstock.errors import ConfigurationError
from rootstock.telemetry import escaped

MOST = 1000
MOST_BYTES = 8 * 1024 * 1024


def told(server: Server, file: Path, task: str | None, *, as_json: bool) -> Iterator[str]:
    """The lines to print. Raises `ConfigurationError` for a file that cannot be sent, `Refused` by the server."""
    body: dict[str, Any] = {"examples": _examples(file)} | ({"task": task} if task else {})
    with server.connect(Lines()) as remote:
        advice = remote.post("/rootstock/advice", body, ids.new("advice-"))
    if as_json:
        yield json.dumps(advice, ensure_ascii=False)
        return
    yield f"Recommendation: {advice['recommendation']}"
    for reason in advice["reasons"]:
        yield f"  - {escaped(reason['message'])}"
    baseline = advice["baseline"]
    if baseline is None:
        yield f"The base model {escaped(advice['base'])} was not asked: not served, or too few examples."
        return
    for name in ("zero_shot", "few_shot"):
        if (found := baseline[name]) is not None:
            words = f"{found['mean']:.2f} of 1 ({found['low']:.2f} to {found['high']:.2f})"
            yield f"{name}: {words}, {baseline['metric']} on {baseline['examples']} examples"


def _examples(file: Path) -> list[Any]:
    found: list[Any] = []
    size = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                size += len(line)
                if len(found) == MOST or size > MOST_BYTES:
                    break
                if line.strip():
                    found.append(_object(line, number))
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from None
    return found


def _object(line: bytes, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ConfigurationError(f"line {number} is no JSON ({error}); see `rootstock data check`") from None
