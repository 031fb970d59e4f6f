"""The supervisor with tiny children: output, restarts, the order of stopping, and that nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rootstock.cli.supervisor import Part, Supervisor
from tests.integration.processes import gone

pytestmark = pytest.mark.integration

SECONDS = 20.0


def part(name: str, code: str, **options: Any) -> Part:
    return Part(name, [sys.executable, "-S", "-u", "-c", code], dict(os.environ), **options)


class Running:
    """A supervisor in a thread, and what it said."""

    def __init__(self, *parts: Part, **options: Any) -> None:
        self.lines: list[tuple[str, str]] = []
        self.said: list[str] = []
        self._news = threading.Condition()
        self.supervisor = Supervisor(
            parts,
            show=lambda *line: self._note(self.lines, line),
            say=lambda text: self._note(self.said, text),
            **options,
        )
        self.exit_code: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.exit_code = self.supervisor.run()

    def _note(self, where: list[Any], what: Any) -> None:
        with self._news:
            where.append(what)
            self._news.notify_all()

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        with self._news:
            assert self._news.wait_for(condition, SECONDS), f"{self.lines} {self.said}"
            return condition()

    def numbers(self, name: str) -> list[int]:
        """What a child printed, where that is a process id."""
        return [int(line) for who, line in self.lines if who == name and line.isdigit()]

    def stop(self, times: int = 1) -> None:
        for _ in range(times):
            self.supervisor.request_stop()
        self.join()

    def join(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*parts: Part, **options: Any) -> Running:
        started.append(Running(*parts, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop(2)


SLEEP = "import os, time; print(os.getpid()); time.sleep(600)"
STUBBORN = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid()); time.sleep(600)"
POLITE = """
import signal, sys, time
def end(*_):
    print("ended")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up")
time.sleep(600)
"""
WITH_HELPER = """
import os, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(helper.pid)
print(os.getpid())
time.sleep(600)
"""


def test_each_line_is_shown_under_its_processs_name(run: Callable[..., Running]) -> None:
    code = "import sys, time; print('out'); print('err', file=sys.stderr); print('half', end=''); time.sleep(600)"
    running = run(part("a", code), part("b", "import time; print('ü\\x1b'); time.sleep(600)"))
    running.wait_for(lambda: len(running.lines) == 3)
    assert set(running.lines) == {("a", "out"), ("a", "err"), ("b", "ü\x1b")}
    running.stop()
    assert ("a", "half") in running.lines
    assert running.exit_code == 0


def test_a_line_without_end_is_cut_and_output_without_end_is_no_obstacle(run: Callable[..., Running]) -> None:
    running = run(part("loud", "while True: print('x' * 1_000_000)"), part("calm", SLEEP))
    running.wait_for(lambda: len(running.lines) > 20 and running.numbers("calm"))
    assert max(len(line) for _, line in running.lines) <= 128 * 1024
    running.stop()
    assert running.exit_code == 0


def test_a_part_that_dies_starts_again_after_longer_and_longer_waits(run: Callable[..., Running]) -> None:
    code = "import sys, time; print(time.monotonic()); sys.exit(3)"
    running = run(part("poor", code), first_delay_seconds=0.1, max_delay_seconds=0.4)
    running.wait_for(lambda: len(running.said) >= 5)
    running.stop()
    assert running.said[:5] == [
        f"poor ended with exit code 3; starting it again in {delay} s" for delay in ("0.1", "0.2", "0.4", "0.4", "0.4")
    ]
    starts = [float(line) for _, line in running.lines]
    assert starts[3] - starts[2] >= 0.4


def test_only_the_part_that_was_killed_starts_again(run: Callable[..., Running]) -> None:
    running = run(part("a", SLEEP), part("b", SLEEP), first_delay_seconds=0.1)
    running.wait_for(lambda: running.numbers("a") and running.numbers("b"))
    os.kill(running.numbers("a")[0], signal.SIGKILL)
    running.wait_for(lambda: len(running.numbers("a")) == 2)
    assert running.said == ["a was killed by SIGKILL; starting it again in 0.1 s"]
    assert len(running.numbers("b")) == 1


def test_helpers_of_a_part_that_died_are_ended_before_it_starts_again(run: Callable[..., Running]) -> None:
    running = run(part("a", WITH_HELPER), first_delay_seconds=0.1)
    helper, leader = running.wait_for(lambda: len(running.lines) >= 2 and running.numbers("a"))[:2]
    os.kill(leader, signal.SIGKILL)
    running.wait_for(lambda: len(running.numbers("a")) == 4)
    assert gone(helper)


def test_a_program_that_is_not_there_is_tried_again(run: Callable[..., Running]) -> None:
    running = run(Part("none", ["/no/such/program"], {}), first_delay_seconds=0.1)
    running.wait_for(lambda: len(running.said) == 2)
    assert running.said[0] == "none cannot be started (No such file or directory); starting it again in 0.1 s"
    assert running.supervisor.missing() == ["none"]


def test_parts_stop_stage_by_stage(run: Callable[..., Running]) -> None:
    names = {"redis": 3, "worker-1": 1, "vllm": 2, "api": 0, "worker-2": 1}
    running = run(*(part(name, POLITE, stage=stage) for name, stage in names.items()))
    running.wait_for(lambda: sum(line == "up" for _, line in running.lines) == len(names))
    assert running.supervisor.missing() == []
    running.stop()
    ended = [name for name, line in running.lines if line == "ended"]
    assert [names[name] for name in ended] == [0, 1, 1, 2, 3]
    assert running.exit_code == 0


def test_a_part_that_does_not_stop_is_killed_with_its_helpers(run: Callable[..., Running]) -> None:
    code = WITH_HELPER.replace("import os,", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); import os,")
    running = run(part("stubborn", code, grace_seconds=0.3), part("calm", SLEEP, stage=1))
    running.wait_for(lambda: len(running.numbers("stubborn")) == 2 and running.numbers("calm"))
    running.stop()
    assert running.said[-1] == "stubborn did not stop within 0.3 s and is killed"
    assert gone(*running.numbers("stubborn"), *running.numbers("calm"))
    assert running.exit_code == 0


def test_a_second_request_does_not_wait_any_longer(run: Callable[..., Running]) -> None:
    running = run(part("stubborn", STUBBORN, grace_seconds=600), part("other", STUBBORN, grace_seconds=600, stage=1))
    running.wait_for(lambda: running.numbers("stubborn") and running.numbers("other"))
    running.supervisor.request_stop()
    running.wait_for(lambda: running.said)
    running.stop()
    assert gone(*running.numbers("stubborn"), *running.numbers("other"))


def test_a_part_that_refuses_its_configuration_ends_the_run_until_all_is_settled(run: Callable[..., Running]) -> None:
    running = run(part("calm", SLEEP), part("wrong", "import sys; print('no'); sys.exit(2)"))
    running.join()
    assert running.exit_code == 2
    assert running.said[0] == "wrong cannot run like this; its last lines say why"
    assert gone(*running.numbers("calm"))


def test_a_settled_part_that_refuses_later_is_tried_again(run: Callable[..., Running]) -> None:
    running = run(part("late", "import sys; sys.stdin.read(); sys.exit(2)"), first_delay_seconds=0.1)
    running.supervisor.settled = True
    running.wait_for(lambda: running.said)
    assert running.said[0] == "late ended with exit code 2; starting it again in 0.1 s"


OWNER = """
import os, sys
from rootstock.cli.supervisor import Part, Supervisor

def part(name, code):
    return Part(name, [sys.executable, "-S", "-u", "-c", code], dict(os.environ))

def show(name, line):
    print(name, line, flush=True)

Supervisor(map(part, "ab", sys.argv[1:]), show=show, say=lambda text: None, first_delay_seconds=0.1).run()
"""

ASKED = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({!r}).touch(), sys.exit(0)))
print(os.getpid())
time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a supervisor over two parts and prints their process ids, and that of a helper."""
    command = [sys.executable, "-u", "-c", OWNER, WITH_HELPER, ASKED.format(str(tmp_path / "asked"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def started(owner: subprocess.Popen[str], count: int) -> dict[str, int]:
    """Part -> its process id, from the next lines; a helper's comes before its parent's."""
    assert owner.stdout is not None
    return {name: int(number) for name, number in (owner.stdout.readline().split() for _ in range(count))}


def janitors(owner: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(owner.pid).children() if "janitor.py" in " ".join(child.cmdline())]


def test_nothing_survives_a_kill_of_the_supervisor(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    parts = started(owner, 3)
    everything = [process.pid for process in psutil.Process(owner.pid).children(recursive=True)]
    assert len(everything) == 4 and set(parts.values()) < set(everything)
    owner.kill()
    assert gone(*everything)
    assert (tmp_path / "asked").exists(), "a part was killed before it was asked to stop"


def test_a_killed_janitor_is_replaced(owner: subprocess.Popen[str]) -> None:
    parts = started(owner, 3)
    (first,) = janitors(owner)
    first.kill()
    assert gone(first.pid)
    os.kill(parts["b"], signal.SIGKILL)
    parts |= started(owner, 1)
    (second,) = janitors(owner)
    owner.kill()
    assert gone(*parts.values(), second.pid)
