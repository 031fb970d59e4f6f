"""Runs customers' `grade(sample, item)` in processes that may do nothing else.

What they may do is in `python_child`, or in `wasm_child` for the other sandbox. A process belongs to one source, so
that no customer's code meets another's. It stays for the next sample, and is replaced when it hangs, dies, answers
nonsense, leaves threads behind or has worked for long. Knows no graders.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rootstock.grading.outcome import Flag, GradingFailed, finite

log = logging.getLogger(__name__)

_ANSWER_BYTES = 64 * 1024
_LIFE_SECONDS = 600.0  # of work; then a fresh process, so that the limit of CPU time never ends an honest call
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Unsafe(Exception):
    """No source may be run here; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """How a process for one source is started: the script with its first arguments, and the memory it may have."""

    command: tuple[str, ...]
    memory_bytes: int


PROCESS = Sandbox((str(Path(__file__).with_name("python_child.py")),), memory_bytes=2 << 30)
"""A process that gives up its rights."""


class PythonRunner:
    """Thread-safe; a context manager. At most `children` sources run at once, further calls wait their turn.

    `seconds` bounds one call by the clock, `memory_bytes` (else the sandbox's) the memory of one process, `file_bytes`
    one file. `sandbox` is asked for each process, and may raise `Unsafe`.
    """

    def __init__(
        self,
        *,
        seconds: float = 120.0,
        memory_bytes: int | None = None,
        file_bytes: int = 1 << 30,
        children: int = 2,
        sandbox: Callable[[], Sandbox] = lambda: PROCESS,
    ) -> None:
        self._sandbox = sandbox
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._file_bytes = file_bytes
        self._most = children
        self._idle: list[_Child] = []
        self._live = 0
        self._closed = False
        self._changed = threading.Condition()

    def __enter__(self) -> "PythonRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; those at work end with their call."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._live -= len(idle)
            self._changed.notify_all()
        for child in idle:
            child.end()

    def call(self, source: str, sample: dict[str, Any], item: dict[str, Any]) -> float:
        """What the source's `grade` returns, a finite number. Raises `GradingFailed`."""
        child = self._take(source)
        reusable = False
        try:
            value = child.grade(sample, item, self._seconds)
            reusable = child.fit()
        except _NoSandbox as lacking:
            raise GradingFailed(Flag.PYTHON_SERVER, str(lacking)) from None
        except _SourceFailed as failure:
            reusable = failure.alive and child.fit()
            raise GradingFailed(Flag.PYTHON_RUNTIME, str(failure)) from None
        finally:
            self._give(child, reusable)
        return finite(value, Flag.PYTHON_RUNTIME, "What 'grade' returned")

    def guards(self) -> dict[str, bool]:
        """Which guards hold on this machine: `user`, `files`, `network`, `processes`; sources are run where all do."""
        child = self._take("def grade(sample, item):\n    return 0\n")
        with contextlib.suppress(_SourceFailed, _NoSandbox):
            child.grade({}, {}, self._seconds)
        self._give(child, reusable=False)
        return dict(child.held)

    def _take(self, source: str) -> "_Child":
        with self._changed:
            while True:
                if self._closed:
                    raise GradingFailed(Flag.PYTHON_SERVER, "The process that runs Python graders is shutting down.")
                for child in self._idle:
                    if child.source == source:
                        self._idle.remove(child)
                        return child
                if self._live < self._most:
                    self._live += 1
                    break
                if self._idle:
                    self._live -= 1
                    self._idle.pop(0).end()
                    continue
                self._changed.wait()
        try:
            cpu = int(_LIFE_SECONDS + 2 * self._seconds) + 60
            sandbox = self._sandbox()
            return _Child(source, sandbox, (self._memory_bytes or sandbox.memory_bytes, cpu, self._file_bytes))
        except BaseException as error:
            with self._changed:
                self._live -= 1
                self._changed.notify()
            if isinstance(error, Unsafe):
                raise GradingFailed(Flag.PYTHON_SERVER, str(error)) from None
            if isinstance(error, OSError):
                log.exception("a Python grader's process cannot be started")
                raise GradingFailed(Flag.PYTHON_SERVER, "The process for Python graders cannot be started.") from None
            raise

    def _give(self, child: "_Child", reusable: bool) -> None:
        with self._changed:
            keep = reusable and not self._closed
            if keep:
                self._idle.append(child)
            else:
                self._live -= 1
            self._changed.notify()
        if not keep:
            child.end()


class _SourceFailed(Exception):
    """The source raised (`alive`), or its process is of no more use."""

    def __init__(self, message: str, *, alive: bool = False) -> None:
        super().__init__(message)
        self.alive = alive


class _NoSandbox(Exception):
    """The process could not give up all its rights, so the source was not run."""

    def __init__(self, lacking: list[str]) -> None:
        super().__init__(
            f"This machine cannot confine Python graders (not guarded: {', '.join(lacking) or 'anything'}), so none is "
            "run. It takes Linux 5.13 on x86-64, with Landlock and seccomp allowed, or the packages of the extra "
            "'wasm'; or use another type of grader."
        )


class _Child:
    """One process of one source, used by one thread at a time."""

    def __init__(self, source: str, sandbox: Sandbox, limits: tuple[int, ...]) -> None:
        self.source = source
        self.held: dict[str, bool] = {}
        self._ready = False
        self._worked = 0.0
        self._calls = 0
        self._buffer = b""
        self._scratch = Path(tempfile.mkdtemp(prefix="grader-"))
        try:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-X", "utf8", *sandbox.command, str(theirs.fileno()), *map(str, limits)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=self._scratch,
                    env=_ENVIRONMENT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise

    def grade(self, sample: dict[str, Any], item: dict[str, Any], seconds: float) -> float:
        """Raises `_SourceFailed`."""
        started = time.monotonic()
        deadline = started + seconds
        try:
            if not self._ready:
                self._start(deadline)
            self._calls += 1
            answer = self._exchange({"id": self._calls, "sample": sample, "item": item}, deadline)
        except TimeoutError:
            raise _SourceFailed(f"The source took longer than {seconds:g} seconds.") from None
        except OSError:
            raise _SourceFailed(self._ending()) from None
        self._worked += time.monotonic() - started
        error, value = answer.get("error"), answer.get("value")
        if answer.get("id") != self._calls or not (isinstance(error, str) or isinstance(value, float)):
            raise _SourceFailed("The source interfered with its own process.")
        if isinstance(error, str):
            raise _SourceFailed(f"The source failed: {error[:600]}", alive=True)
        assert isinstance(value, float)
        return value

    def fit(self) -> bool:
        """Whether the process can take another call: nothing left over of this one, and not too old."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        try:
            threads = len(os.listdir(tasks)) if tasks.exists() else 1
            for entry in os.scandir(self._scratch):
                shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        except (OSError, RecursionError):
            return False
        return threads == 1 and not self._buffer and self._worked < _LIFE_SECONDS

    def end(self) -> None:
        """Kill the process and what it may have started, remove its folder."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.wait()
        self._socket.close()
        try:
            shutil.rmtree(self._scratch, ignore_errors=True)
        except RecursionError:
            log.warning("a Python grader left folders behind that are too deep to remove", extra={"at": self._scratch})

    def _start(self, deadline: float) -> None:
        hello = self._exchange(self.source, deadline)
        self.held = {str(name): value is True for name, value in (hello.get("held") or {}).items()}
        if not self.held or not all(self.held.values()):
            raise _NoSandbox(sorted(name for name, holds in self.held.items() if not holds))
        if hello.get("error") is not None:
            raise _SourceFailed(f"The source failed: {str(hello['error'])[:600]}")
        self._ready = True

    def _exchange(self, message: Any, deadline: float) -> dict[str, Any]:
        try:
            line = json.dumps(message).encode() + b"\n"
        except (TypeError, ValueError, RecursionError):
            raise _SourceFailed("The item or the sample cannot be written as JSON.", alive=True) from None
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        self._socket.sendall(line)
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            piece = self._socket.recv(_ANSWER_BYTES)
            if not piece:
                raise ConnectionError
            self._buffer += piece
            if len(self._buffer) > _ANSWER_BYTES:
                break
        answer, _, self._buffer = self._buffer.partition(b"\n")
        try:
            parsed = json.loads(answer)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise _SourceFailed("The source interfered with its own process.")
        return parsed

    def _ending(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "The source closed the connection of its process."
        if code >= 0:
            return f"The source ended its process with exit code {code}."
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"The source's process was ended by {name}; memory and processes are limited."
