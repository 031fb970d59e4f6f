"""`rootstock up` itself, with its real Redis and database, over programs that stand in for the three heavy ones."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rootstock import keys
from rootstock.db import Database
from tests.integration.processes import gone

pytestmark = pytest.mark.integration

SECONDS = 110.0

SERVICE = """
import json, os, pathlib, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        away = not pathlib.Path(os.environ["STAND_IN"], "vllm-answers").exists()
        self.send_response(503 if away else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"parts": {"redis": "ok", "vllm": "away" if away else "ok"}}).encode())

    def log_message(self, *_):
        pass

if sys.argv[1:] == ["batch-worker"]:
    print("puts lines of batches to", os.environ["ROOTSTOCK_VLLM_URL"])
    time.sleep(600)
HTTPServer((os.environ["ROOTSTOCK_HOST"], int(os.environ["ROOTSTOCK_PORT"])), Handler).serve_forever()
"""
TRAINER = "import time; print('the base is loaded'); time.sleep(600)"
SERVING = """
import os, pathlib, time
print("adapters from", os.environ["ROOTSTOCK_DATA_DIR"], "on", os.environ["ROOTSTOCK_VLLM_PORT"])
time.sleep(600)
"""


class Up:
    """A running `rootstock up` and what it printed."""

    def __init__(self, folder: Path, *options: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROOTSTOCK_")}
        environment |= {
            "PYTHONPATH": str(folder / "programs"),
            "STAND_IN": str(folder),
            "ROOTSTOCK_VLLM_PYTHON": sys.executable,
        }
        self.data_dir = folder / "data"
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rootstock", "up", "--port", "0", "--data-dir", str(self.data_dir), *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line that the pattern matches, once there is one."""

        def found() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in self.lines)), None)

        with self._news:
            match = self._news.wait_for(found, SECONDS)
        assert match, "\n".join(self.lines)
        return match

    def child(self, word: str) -> psutil.Process:
        """The child whose command line holds the word."""
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if word in " ".join(process.cmdline()):
                    return process
        raise AssertionError(word)

    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    def end(self, number: int = signal.SIGINT) -> int:
        """Exit code after the signal."""
        self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    for name, code in {"service": SERVICE, "trainer": TRAINER, "serving": SERVING}.items():
        (tmp_path / "programs" / name).mkdir(parents=True)
        (tmp_path / "programs" / name / "__init__.py").touch()
        (tmp_path / "programs" / name / "__main__.py").write_text(code)
    (tmp_path / "vllm-answers").touch()
    started: list[Up] = []

    def start(*options: str) -> Up:
        started.append(Up(tmp_path, *options))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
            running.end()
        running.process.stdout.close()  # type: ignore[union-attr]


def test_ready_only_when_every_part_answers_then_a_clean_end(up: Callable[..., Up], tmp_path: Path) -> None:
    (tmp_path / "vllm-answers").unlink()
    running = up()
    running.wait_for(r"^rootstock │ waiting for vllm$")
    assert not [line for line in running.lines if line.startswith("Ready")]
    (tmp_path / "vllm-answers").touch()
    ready = running.wait_for(r"^Ready  (http://127\.0\.0\.1:\d+)/v1   API key in (.*)$")
    running.wait_for("^worker    │ the base is loaded$")
    running.wait_for(r"^batches   │ puts lines of batches to http://127\.0\.0\.1:\d+$")
    running.wait_for(rf"^vllm      │ adapters from {running.data_dir} on \d+$")
    database = Database(f"sqlite:///{running.data_dir}/rootstock.db")
    with database.read() as tx:
        assert keys.authenticate(tx, Path(ready[2]).read_text().strip()).project_id == keys.DEFAULT_PROJECT
    database.close()
    children = running.children()
    assert running.end() == 0
    assert gone(*children)
    assert running.lines[-1] == "rootstock │ everything is stopped"
    assert sum(line.startswith("Ready") for line in running.lines) == 1


def test_sigterm_ends_it_as_cleanly(up: Callable[..., Up]) -> None:
    running = up("--no-serving", "--workers", "2")
    running.wait_for("^Ready")
    assert running.wait_for("^worker-2  │ the base is loaded$")
    children = running.children()
    assert running.end(signal.SIGTERM) == 0
    assert gone(*children)


def test_a_part_that_is_killed_comes_back(up: Callable[..., Up]) -> None:
    running = up("--no-serving")
    running.wait_for("^Ready")
    first = running.child("redis-server")
    first.kill()
    running.wait_for("redis was killed by SIGKILL; starting it again in 1 s")
    assert gone(first.pid)
    running.wait_for("worker    │ the base is loaded")
    running.child("service").kill()
    running.wait_for("api was killed by SIGKILL")
    assert running.end() == 0


def test_state_and_key_survive_a_kill_of_the_whole_stack(up: Callable[..., Up]) -> None:
    first = up("--no-serving")
    first.wait_for("^Ready")
    key = (first.data_dir / "api-key").read_text()
    children = first.children()
    refused = up("--no-serving")
    assert refused.process.wait(SECONDS) == 2
    refused.wait_for(rf"^Error: .* already \(process {first.process.pid}\)")
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    second = up("--no-serving")
    second.wait_for("^Ready")
    assert gone(*children)
    assert (second.data_dir / "api-key").read_text() == key
    assert "wrote a new API key" not in "\n".join(second.lines)


def test_a_part_that_refuses_its_configuration_ends_the_start(up: Callable[..., Up], tmp_path: Path) -> None:
    (tmp_path / "programs" / "trainer" / "__main__.py").write_text(
        "import sys; sys.exit(print('error: no such base model') or 2)"
    )
    running = up("--no-serving")
    assert running.process.wait(SECONDS) == 2
    running.wait_for("^worker    │ error: no such base model$")
    running.wait_for("^rootstock │ worker cannot run like this; its last lines say why$")
