"""What the command line shows: prefixed lines, a status line while waiting. Plain text when nobody is looking."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.status import Status
from rich.text import Text

from rootstock.telemetry import escaped

PLAIN_WIDTH = 200
OWN_NAME = "rootstock"
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_yellow")
_STYLING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Standard output with a coloured name before each line."""

    def __init__(self) -> None:
        with contextlib.suppress(AttributeError):  # under tests standard output is no real stream
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        self._console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self._colours: dict[str, str] = {OWN_NAME: "bold"}
        self._status: Status | None = None

    def line(self, name: str, text: str) -> None:
        """One line of a process. Progress bars shrink to their last state, control characters are written out."""
        colour = self._colours.setdefault(name, _COLOURS[(len(self._colours) - 1) % len(_COLOURS)])
        clean = escaped(_STYLING.sub("", text).rstrip("\r").rpartition("\r")[2])
        self._console.print(Text.assemble((f"{name:<10}", colour), ("│ ", "dim"), clean))

    def say(self, text: str) -> None:
        """One line of our own."""
        self.line(OWN_NAME, text)

    def headline(self, text: str) -> None:
        """A line without prefix that people and scripts look for."""
        self._console.print(Text(text, "bold green"))

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner on a terminal for the length of the block; `still` changes its text."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(text) as self._status:
            yield
        self._status = None

    def still(self, text: str, *, plain: str | None = None) -> None:
        """Update the spinner; without a terminal, say `plain` when it is given."""
        if self._status is not None:
            self._status.update(text)
        elif plain is not None:
            self.say(plain)


class Lines:
    """Lines and progress bars of a command that does one thing; plain lines when nobody is looking."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else PLAIN_WIDTH  # a log should not be folded at 80
        self._console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, width=width)
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """One line that stays."""
        (self._progress.console if self._progress else self._console).print(Text(escaped(text)))

    @contextlib.contextmanager
    def transfer(self, label: str, total: int) -> Iterator[Callable[[int], object]]:
        """A bar on a terminal, which is told of each number of bytes; elsewhere a line once it is over."""
        if not self._console.is_terminal:
            yield lambda _: None
            self.say(f"{label}: {decimal(total)}")
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
        progress = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._console)
        with progress:
            self._progress = progress
            task = progress.add_task(escaped(label), total=total)
            try:
                yield lambda count: progress.advance(task, count)
            finally:
                self._progress = None

    @contextlib.contextmanager
    def counting(self, label: str) -> Iterator[Callable[[int, int], object]]:
        """A bar on a terminal, which is told how many are done of how many; elsewhere a line for each tenth of them."""
        if not self._console.is_terminal:
            told = -1

            def tell(done: int, total: int) -> None:
                nonlocal told
                if total and (tenth := 10 * done // total) > told:
                    told = tenth
                    self.say(f"{label}: {done} of {total}")

            yield tell
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self._console) as progress:
            self._progress = progress
            task = progress.add_task(escaped(label), total=None)
            try:
                yield lambda done, total: progress.update(task, completed=done, total=total or None)
            finally:
                self._progress = None
