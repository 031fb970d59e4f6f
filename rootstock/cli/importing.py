"""`rootstock import openai`: which phases the options ask for, and how they look. Knows no wire."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from rootstock.cli.stack import found
from rootstock.cli.terminal import Lines
from rootstock.errors import ConfigurationError, ImportStopped
from rootstock.importing.carry import Carrier
from rootstock.importing.folder import REPORT, STATE, Folder, State
from rootstock.importing.plan import Fate, Item, plan
from rootstock.importing.read_openai import export, read_lists
from rootstock.importing.remote import Remote
from rootstock.settings import Settings
from rootstock.telemetry import escaped

INTERRUPTED = 130
MOST_ROWS = 200
_STYLES = {Fate.COPIED: "green", Fate.KEPT: "cyan", Fate.LEFT: "yellow"}


@dataclass(frozen=True)
class Wanted:
    """The options of one call. `transport` and `sleep` replace the network and the clock in tests."""

    api_key: str | None
    headers: dict[str, str | None]
    from_url: str
    from_folder: Path | None
    folder: Path
    to: str | None
    to_key: str | None
    settings: Settings
    export_only: bool
    apply: bool
    run_jobs: bool
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], object] = time.sleep


def import_all(wanted: Wanted) -> int:
    """Do what is wanted and return the exit code. Raises `ConfigurationError` and `ImportStopped`."""
    screen = Screen()
    _check(wanted)
    try:
        if not wanted.apply and not wanted.export_only:
            return _rehearse(wanted, screen)
        return _perform(wanted, screen)
    except KeyboardInterrupt:
        screen.say("Stopped. The same command goes on from here.")
        return INTERRUPTED
    except OSError as error:
        raise ImportStopped(f"{error.filename or wanted.folder}: {error.strerror or error}.") from error


def _check(wanted: Wanted) -> None:
    if wanted.apply and wanted.export_only:
        raise ConfigurationError("--export-only stops before what --apply does; give one of them.")
    if wanted.run_jobs and not wanted.apply:
        raise ConfigurationError("--run-jobs starts jobs, so it needs --apply.")
    if wanted.from_folder is not None and wanted.export_only:
        raise ConfigurationError("--from-folder is an export already; leave --export-only out.")
    if wanted.from_folder is not None and not (wanted.from_folder / STATE).is_file():
        raise ConfigurationError(f"{wanted.from_folder} holds no export: {STATE} is missing.")
    if wanted.from_folder is None and not wanted.api_key:
        raise ConfigurationError("There is no key for the source. Set OPENAI_API_KEY or give --api-key.")


def _rehearse(wanted: Wanted, screen: "Screen") -> int:
    """Show what would become of everything; write nothing outside a folder that is thrown away."""
    with contextlib.ExitStack() as stack:
        path = wanted.from_folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rootstock-import-")))
        folder, state = Folder(path), State(path / STATE)
        if wanted.from_folder is None:
            folder.make()
            source = stack.enter_context(_source(wanted, screen))
            read_lists(source, folder, state, screen)
        screen.table(list(plan(folder, state, listed_only=wanted.from_folder is None)))
    screen.say("Nothing has been copied. --apply does it; --export-only only saves it to a folder.")
    return 0


def _perform(wanted: Wanted, screen: "Screen") -> int:
    folder = Folder(wanted.from_folder or wanted.folder)
    folder.make()
    with folder.locked(), contextlib.ExitStack() as stack:
        state = State(folder.path / STATE)
        # The target first: a wrong key should show before an hour of downloads.
        target = stack.enter_context(_target(wanted, screen)) if wanted.apply else None
        if target is not None:
            target.get("/models")
        if wanted.from_folder is None:
            export(stack.enter_context(_source(wanted, screen)), folder, state, screen)
        elif not state.complete:
            screen.say(f"The export in {folder.path} was not finished; copying what it holds.")
        if target is None:
            screen.table(list(plan(folder, state)))
            screen.say(f"Saved to {folder.path}. Later: rootstock import openai --from-folder {folder.path} --apply")
            return 0
        screen.table(Carrier(target, folder, state, screen, run_jobs=wanted.run_jobs).carry(), done=True)
    screen.say(f"Recipes are in {folder.path / 'recipes'}, every reason in {folder.path / REPORT}.")
    return 0


def _source(wanted: Wanted, screen: "Screen") -> Remote:
    headers = {name: value for name, value in wanted.headers.items() if value}
    name = urlsplit(wanted.from_url).hostname or "The source"
    return _remote(name, wanted.from_url, str(wanted.api_key), wanted, screen, headers)


def _remote(
    name: str, url: str, key: str, wanted: Wanted, screen: "Screen", headers: dict[str, str] | None = None
) -> Remote:
    return Remote(name, url, key, headers=headers, say=screen.say, transport=wanted.transport, sleep=wanted.sleep)


def _target(wanted: Wanted, screen: "Screen") -> Remote:
    url, key = found(wanted.settings, wanted.to, wanted.to_key, url_option="--to", key_option="--to-key")
    return _remote("Rootstock", url, key, wanted, screen)


class Screen(Lines):
    """Lines, progress bars and tables."""

    def table(self, items: list[Item], *, done: bool = False) -> None:
        """One row for each thing, or for each group of alike things when there are many; then the totals."""
        table = Table("what", "name", "size", "outcome" if done else "plan", "remarks")
        label = {fate: str(fate) for fate in Fate} | ({} if done else {Fate.COPIED: "copy"})
        for row, fate in _rows(items):
            table.add_row(
                *(Text(escaped(cell), overflow="fold") for cell in row[:3]), Text(label[fate], _STYLES[fate]), row[3]
            )
        self._console.print(table, soft_wrap=False)
        for fate in Fate:
            alike = [item for item in items if item.fate is fate and item.kind != "other"]
            self.say(f"{label[fate]}: {len(alike)} ({decimal(sum(item.bytes or 0 for item in alike))})")


def _rows(items: list[Item]) -> Iterator[tuple[tuple[str, str, str, str], Fate]]:
    if len(items) <= MOST_ROWS:
        for item in items:
            why = "; ".join(filter(None, [item.reason, *item.remarks]))
            name = f"{item.id} {item.name}".strip() + (f" → {item.new_id}" if item.new_id else "")
            size = "" if item.bytes is None else decimal(item.bytes)
            yield (item.kind, name, size, why), item.fate
        return
    groups: dict[tuple[str, Fate], list[Item]] = {}
    for item in items:
        groups.setdefault((item.kind, item.fate), []).append(item)
    for (kind, fate), alike in groups.items():
        why = next((item.reason for item in alike if item.reason), None) or ""
        more = " (and other reasons)" if len({item.reason for item in alike}) > 1 else ""
        size = decimal(sum(item.bytes or 0 for item in alike))
        yield (kind, f"{len(alike)} of them", size, why + more), fate
