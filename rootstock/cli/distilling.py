"""What `rootstock distil` does: asks a Rootstock for a distillation, follows it, saves its file. Knows no teacher."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rootstock import ids
from rootstock.cli.exporting import INTERRUPTED, Server
from rootstock.cli.terminal import Lines
from rootstock.errors import ConfigurationError
from rootstock.importing.remote import Remote
from rootstock.telemetry import escaped

PATH = "/rootstock/distillations"
LOOK_SECONDS = 1.0
_ENDS = ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class Wanted:
    """The options of one call."""

    prompts: str | None
    stored: dict[str, Any]
    teacher: str | None
    teacher_url: str | None
    teacher_key: str | None
    schema: Path | None
    grader: Path | None
    min_score: float
    refusals: bool
    near_duplicates: float
    max_examples: int
    max_tokens: int | None
    seed: int | None
    suffix: str | None
    out: Path | None
    wait: bool


def run(server: Server, wanted: Wanted) -> int:
    """Start a distillation, follow it to its end and return the exit code.

    Raises `ConfigurationError` for options that do not go together, `Refused` by the server.
    """
    _check(wanted)
    screen = Lines()
    with server.connect(screen) as remote:
        body = _body(remote, wanted)
        made = remote.post(PATH, body, ids.new("distil-"))
        screen.say(f"{made['id']}: {made['status']}")
        if not wanted.wait:
            return 0
        try:
            ended = _follow(server, remote, screen, made)
        except KeyboardInterrupt:
            screen.say(f"It goes on without you. `rootstock distil cancel {made['id']}` would end it.")
            return INTERRUPTED
        for line in _outcomes(ended):
            screen.say(line)
        if ended["status"] != "completed":
            return 1
        screen.say(f"Training file: {ended['training_file']} (where it came from: {ended['provenance_file']})")
        if wanted.out is not None:
            path = f"/files/{ended['training_file']}/content"
            remote.download(path, wanted.out, lambda _: None, size=None)
            screen.say(f"Saved to {wanted.out}")
    return 0


def list_all(server: Server) -> list[str]:
    """A line for each distillation, newest first."""
    with server.connect(Lines()) as remote:
        return [escaped(_line(one)) for one in remote.pages(PATH)]


def cancel(server: Server, distillation: str) -> str:
    """End it; a line that says so."""
    with server.connect(Lines()) as remote:
        ended = remote.post(f"{PATH}/{quote(distillation, safe='')}/cancel", {}, ids.new("distil-"))
        return escaped(f"{ended['id']}: {ended['status']}")


def _check(wanted: Wanted) -> None:
    stored = any(value is not None for value in wanted.stored.values())
    if (wanted.prompts is None) != stored:
        raise ConfigurationError(
            "Give --prompts, or --stored-model (or --metadata) for stored completions: one of them."
        )
    if wanted.prompts is not None and wanted.teacher is None:
        raise ConfigurationError("Prompts have no answers yet: name a model with --teacher.")
    if wanted.teacher is None and wanted.teacher_url is not None:
        raise ConfigurationError("--teacher-url is where a model is: name it with --teacher.")
    if wanted.out is not None and not wanted.wait:
        raise ConfigurationError("--out saves the file once it is there; leave --no-wait out.")


def _body(remote: Remote, wanted: Wanted) -> dict[str, Any]:
    body: dict[str, Any] = {"source": _source(remote, wanted)}
    filters: dict[str, Any] = {"refusals": wanted.refusals, "near_duplicates": wanted.near_duplicates or None}
    if wanted.grader is not None:
        filters["grader"] = {"grader": _json(wanted.grader), "min_score": wanted.min_score}
    if wanted.teacher is not None:
        body["teacher"] = {"model": wanted.teacher}
        if wanted.teacher_url is not None:
            body["teacher"] |= {"base_url": wanted.teacher_url, "api_key": wanted.teacher_key}
    if wanted.schema is not None:
        schema = {"name": "answer", "schema": _json(wanted.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    budget = {"max_examples": wanted.max_examples, "max_tokens": wanted.max_tokens}
    return body | {"filters": filters, "budget": budget, "seed": wanted.seed, "suffix": wanted.suffix}


def _source(remote: Remote, wanted: Wanted) -> dict[str, Any]:
    if wanted.prompts is None:
        pairs = [pair.partition("=") for pair in wanted.stored["metadata"] or []]
        if any(not equals for _, equals, _ in pairs):
            raise ConfigurationError("--metadata reads key=value.")
        metadata = {name: value for name, _, value in pairs}
        return {"type": "stored_completions", **wanted.stored, "metadata": metadata or None}
    path = Path(wanted.prompts)
    if not path.is_file():
        if not wanted.prompts.startswith("file-"):
            raise ConfigurationError(f"{path} is no file here, and no id of one (file-…).")
        return {"type": "file", "file_id": wanted.prompts}
    sent = remote.upload("/files", path, path.name, "user_data", ids.new("distil-"), lambda _: None)
    return {"type": "file", "file_id": sent["id"]}


def _follow(server: Server, remote: Remote, screen: Lines, made: dict[str, Any]) -> dict[str, Any]:
    with screen.counting(made["id"]) as count:
        while True:
            now: dict[str, Any] = remote.get(f"{PATH}/{made['id']}")
            count(now["counts"]["done"], now["counts"]["total"])
            if now["status"] in _ENDS:
                return now
            server.sleep(LOOK_SECONDS)


def _outcomes(ended: dict[str, Any]) -> Iterator[str]:
    yield f"{ended['status']}: {ended['counts']['kept']} examples kept, {ended['usage']['total_tokens']} tokens"
    for name, number in sorted(ended["counts"]["outcomes"].items(), key=lambda one: -one[1]):
        if name != "kept":
            yield f"  left out: {number:>6}  {name.replace('_', ' ')}"
    if ended["stopped_by"] == "max_tokens":
        yield "It ended early: the budget of tokens was used up."
    if ended["error"] is not None:
        yield ended["error"]["message"]


def _line(one: dict[str, Any]) -> str:
    counts = one["counts"]
    return (
        f"{one['id']}  {one['status']:<11}  {counts['kept']:>6} of {counts['total']:<6}  {one['training_file'] or ''}"
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read as JSON: {error}") from None
