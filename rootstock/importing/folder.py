"""The folder between the two servers: objects as they came, contents, and how far the copying got. No network.

files/<id>.json      the File object          files/<id>.content   its bytes, there only when complete
jobs/<id>.json       the job object           graders/<job>.json   the grader of a reinforcement job
evals/<id>.json      the eval object          recipes/<job>.json   a body for POST /v1/fine_tuning/jobs
import-state.json    what is done             report.json          what was carried, and what was not and why
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rootstock.errors import ConfigurationError, ImportStopped

FILES, JOBS, EVALS, GRADERS, RECIPES = "files", "jobs", "evals", "graders", "recipes"
PATHS = {FILES: "/files", JOBS: "/fine_tuning/jobs", EVALS: "/evals"}
"""Where the wire has what the folder keeps under the same name."""
STATE, REPORT = "import-state.json", "report.json"
VERSION = 1

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Folder:
    """An export on disk. Nothing in it is ever half written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Create it, readable for its owner only: training data is private."""
        for kind in (FILES, JOBS, EVALS, GRADERS, RECIPES):
            (self.path / kind).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)

    def save(self, kind: str, thing: dict[str, Any]) -> None:
        """Keep an object under its own id. Raises `ImportStopped` when that is no id."""
        self.save_as(kind, thing.get("id"), thing)

    def save_as(self, kind: str, name: Any, thing: dict[str, Any]) -> None:
        """Keep an object under the id `name`. Raises like `save`."""
        write_json(self.path / kind / f"{_safe(name)}.json", thing)

    def load(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object of that id, if it is here. Raises `ImportStopped` when it cannot be read."""
        if not _SAFE_ID.fullmatch(name):
            return None
        path = self.path / kind / f"{name}.json"
        return read_json(path) if path.exists() else None

    def each(self, kind: str) -> Iterator[dict[str, Any]]:
        """Every object of a kind, by id, one in memory at a time. Raises like `load`."""
        for path in sorted((self.path / kind).glob("*.json")):
            thing = read_json(path)
            if thing.get("id") != path.stem:
                raise ImportStopped(f"{path} does not hold the object that it is named for.")
            yield thing

    def content(self, file_id: str) -> Path:
        """Where the bytes of a file are, or go."""
        return self.path / FILES / f"{_safe(file_id)}.content"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other imports off the folder. Raises `ConfigurationError` when one is at work."""
        lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise ConfigurationError(f"Another import is at work on {self.path}.") from None
        finally:
            os.close(lock)


class State:
    """`import-state.json`: what could not be had from the source, and which id each thing got at which target.

    Written before a thing is sent (its "pending" key) and after it is answered, so that a killed import knows what to
    look for, and under which `Idempotency-Key` it was sent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        empty: dict[str, Any] = {
            "version": VERSION,
            "source": None,
            "complete": False,
            "unavailable": {},
            "targets": {},
        }
        self._all = empty | (read_json(path) if path.exists() else {})
        if self._all["version"] != VERSION:
            raise ConfigurationError(f"{path} was written by another version of Rootstock; use another folder.")

    @property
    def source(self) -> str | None:
        """The base URL that the objects came from."""
        source: str | None = self._all["source"]
        return source

    @property
    def complete(self) -> bool:
        """Whether an export ran to its end."""
        return bool(self._all["complete"])

    def begin_export(self, source: str) -> None:
        """From now on the folder holds `source`'s objects. Raises `ConfigurationError` if it holds another's."""
        if self.source not in (None, source):
            raise ConfigurationError(f"{self._path.parent} holds an export of {self.source}; use another --folder.")
        self._all["source"] = source
        self._write()

    def end_export(self) -> None:
        """Everything that could be had is here."""
        self._all["complete"] = True
        self._write()

    def unavailable(self, name: str) -> str | None:
        """Why the source did not give out a content or a list."""
        reason: str | None = self._all["unavailable"].get(name)
        return reason

    def set_unavailable(self, name: str, reason: str | None) -> None:
        """Remember such a reason; None: it is available after all."""
        if reason != self.unavailable(name):
            self._all["unavailable"][name] = reason
            self._write()

    def new_id(self, target: str, kind: str, old: str) -> str | None:
        """The id that a thing got at the target, if it is there."""
        entry = self._entry(target, kind).get(old)
        return entry if isinstance(entry, str) else None

    def new_ids(self, target: str, kind: str) -> set[str]:
        """The new ids of everything that is there."""
        return {entry for entry in self._entry(target, kind).values() if isinstance(entry, str)}

    def pending(self, target: str, kind: str, old: str) -> str | None:
        """The key under which it was being sent when the import ended: it may have arrived."""
        entry = self._entry(target, kind).get(old)
        return entry["pending"] if isinstance(entry, dict) else None

    def set_pending(self, target: str, kind: str, old: str) -> str:
        """It is about to be sent, under this key."""
        key = f"import-{secrets.token_hex(16)}"
        self._entry(target, kind)[old] = {"pending": key}
        self._write()
        return key

    def set_new_id(self, target: str, kind: str, old: str, new: str) -> None:
        """It has arrived."""
        self._entry(target, kind)[old] = new
        self._write()

    def forget(self, target: str, kind: str, old: str) -> None:
        """It is not there (any more)."""
        self._entry(target, kind).pop(old, None)
        self._write()

    def _entry(self, target: str, kind: str) -> dict[str, str | dict[str, str]]:
        entry: dict[str, str | dict[str, str]] = self._all["targets"].setdefault(target, {}).setdefault(kind, {})
        return entry

    def _write(self) -> None:
        write_json(self._path, self._all, durable=True)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Replace the file in one step; a reader sees the old or the new one, if `durable` also after a power failure."""
    unfinished = path.with_name(path.name + ".new")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())
    unfinished.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises `ImportStopped` when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImportStopped(f"{path} cannot be read as JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ImportStopped(f"{path} does not hold a JSON object.")
    return value


def _safe(name: Any) -> str:
    """An id that may name a file here. Raises `ImportStopped`: a server must not choose where we write."""
    if not isinstance(name, str) or not _SAFE_ID.fullmatch(name):
        raise ImportStopped(f"The source names an object {str(name)[:100]!r}, which cannot be an id.")
    return name
