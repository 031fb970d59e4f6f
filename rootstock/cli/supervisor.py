"""Keeps a set of child processes running, shows their output, stops them in order and leaves none behind.

Knows nothing about what the children are. One thread: a select loop that reads their output and reaps them.
"""

import contextlib
import os
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rootstock.cli import janitor

TURN_SECONDS = 0.2
STEADY_SECONDS = 60.0
"""A part that ran this long before it died starts again without a longer wait."""

REFUSED = 2
"""Exit code of a process that cannot run as it is configured: trying again would not help."""

_MAX_LINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """A process to keep running. Parts of the lowest `stage` are stopped first, those of one stage together."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    stage: int = 0
    grace_seconds: float = 10.0


@dataclass(slots=True)
class _Child:
    part: Part
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    start_at: float | None = 0.0
    rest: bytes = b""
    output: int | None = None


class Supervisor:
    """Runs parts until `request_stop`.

    Example: `Supervisor([Part("api", [...], env)], show=print_line, say=print).run()`.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        *,
        show: Callable[[str, str], None],
        say: Callable[[str], None],
        first_delay_seconds: float = 1.0,
        max_delay_seconds: float = 30.0,
        keep_open: Sequence[int] = (),
    ) -> None:
        """`show(name, line)` gets each line of a child, `say(sentence)` what the supervisor itself does.

        The file descriptors in `keep_open` (a lock) stay open until the last child is gone, even if this process is
        killed.
        """
        self.settled = False
        """Set it once everything has worked: until then a part that refuses its configuration ends the run."""
        self._children = [_Child(part) for part in parts]
        self._show, self._say = show, say
        self._first_delay, self._max_delay = first_delay_seconds, max_delay_seconds
        self._keep_open = keep_open
        self._selector = selectors.DefaultSelector()
        self._janitor: subprocess.Popen[bytes] | None = None
        self._stops = 0
        self._stopping = False
        self._exit_code = 0

    def request_stop(self) -> None:
        """Stop in order; a second call kills at once. May be called from a signal handler or another thread."""
        self._stops += 1

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop."""
        return self._stops > 0

    def missing(self) -> list[str]:
        """Names of the parts that are not running at this moment."""
        return [child.part.name for child in self._children if child.process is None]

    def run(self) -> int:
        """Start every part and keep it running; the exit code for this process once all are stopped."""
        try:
            while not self._stops:
                self._start_due()
                self._turn(TURN_SECONDS)
            self._stop_in_order()
        finally:
            self._kill(self._children)
            if self._janitor is not None:
                self._dismiss(self._janitor)
            self._selector.close()
        return self._exit_code

    def _start_due(self) -> None:
        for child in self._children:
            if child.start_at is not None and child.start_at <= time.monotonic():
                self._start(child)

    def _start(self, child: _Child) -> None:
        child.start_at, child.started_at = None, time.monotonic()
        try:
            process = subprocess.Popen(
                child.part.command,
                env=child.part.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own group: Ctrl-C reaches us only, and it can be killed as a whole
            )
        except OSError as error:
            self._schedule(child, f"cannot be started ({error.strerror or error})")
            return
        assert process.stdout is not None
        child.process, child.output = process, process.stdout.fileno()
        os.set_blocking(child.output, False)
        self._selector.register(child.output, selectors.EVENT_READ, child)
        self._tell_janitor()

    def _turn(self, seconds: float) -> None:
        """Pass output on for at most `seconds`, and notice who died."""
        for key, _ in self._selector.select(seconds):
            self._read(key.data)
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, child.process)

    def _read(self, child: _Child) -> None:
        if child.output is None:
            return
        try:
            data = os.read(child.output, _MAX_LINE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close_output(child)
            return
        *lines, child.rest = (child.rest + data).split(b"\n")
        if len(child.rest) >= _MAX_LINE_BYTES:
            lines, child.rest = [*lines, child.rest], b""
        for line in lines:
            self._show(child.part.name, line.decode(errors="replace"))

    def _close_output(self, child: _Child) -> None:
        if child.output is not None:
            self._selector.unregister(child.output)
            child.output = None
        if child.rest:
            self._show(child.part.name, child.rest.decode(errors="replace"))
            child.rest = b""

    def _ended(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        _kill_group(process)  # helpers that it left behind, such as vLLM's engine
        deadline = time.monotonic() + 1.0
        while child.output is not None and time.monotonic() < deadline:
            select.select([child.output], [], [], 0.1)
            self._read(child)
        self._close_output(child)
        assert process.stdout is not None
        process.stdout.close()
        child.process = None
        self._tell_janitor()
        if self._stopping:
            return
        code = process.returncode
        if code == REFUSED and not self.settled:
            self._say(f"{child.part.name} cannot run like this; its last lines say why")
            self._exit_code = REFUSED
            self.request_stop()
        else:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            self._schedule(child, how)

    def _schedule(self, child: _Child, how: str) -> None:
        if time.monotonic() - child.started_at >= STEADY_SECONDS:
            child.deaths = 0
        delay = min(self._first_delay * 2**child.deaths, self._max_delay)
        child.deaths = min(child.deaths + 1, 16)
        child.start_at = time.monotonic() + delay
        self._say(f"{child.part.name} {how}; starting it again in {delay:g} s")

    def _stop_in_order(self) -> None:
        self._stopping = True
        self._say("stopping; once more to kill everything at once")
        for stage in sorted({child.part.stage for child in self._children}):
            children = [child for child in self._children if child.part.stage == stage]
            for child in children:
                if child.process is not None:
                    child.process.terminate()
            deadline = time.monotonic() + max(child.part.grace_seconds for child in children)
            while _running(children) and time.monotonic() < deadline and self._stops < 2:
                self._turn(TURN_SECONDS / 2)
            if self._stops >= 2:
                return
            for child in _running(children):
                self._say(f"{child.part.name} did not stop within {child.part.grace_seconds:g} s and is killed")
            self._kill(children)

    def _kill(self, children: list[_Child]) -> None:
        self._stopping = True
        for child in _running(children):
            if child.process is not None:
                _kill_group(child.process)
                child.process.wait()
                self._ended(child, child.process)

    def _tell_janitor(self) -> None:
        groups = " ".join(str(child.process.pid) for child in self._children if child.process is not None)
        for _ in range(2):
            if self._janitor is None:
                self._janitor = subprocess.Popen(
                    [sys.executable, "-I", "-S", janitor.__file__],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                    pass_fds=self._keep_open,
                )
            assert self._janitor.stdin is not None
            try:
                self._janitor.stdin.write(f"{groups}\n".encode())
                self._janitor.stdin.flush()
                return
            except BrokenPipeError:  # somebody killed it: the next one takes over
                self._dismiss(self._janitor)
                self._janitor = None

    @staticmethod
    def _dismiss(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


def _running(children: list[_Child]) -> list[_Child]:
    return [child for child in children if child.process is not None]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
