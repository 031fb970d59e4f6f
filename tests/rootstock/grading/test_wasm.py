"""Python graders in WASM: what it may do, what becomes of it, and which sandbox is chosen when."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from rootstock.grading import Flag, PythonRunner, open_runner, sandbox
from rootstock.grading import wasm_component as components
from tests.rootstock.grading.conftest import graded


@pytest.fixture(scope="module")
def runner(folder):
    with PythonRunner(seconds=30, sandbox=lambda: sandbox.wasm(folder)) as python:
        yield python


pytestmark = pytest.mark.integration


def test_what_graders_usually_import_is_there(runner):
    head = (
        "import re, json, math, collections, difflib, statistics, string, itertools, functools, decimal, fractions, "
        "datetime, random, unicodedata, textwrap, html, csv, hashlib, base64, heapq, typing, dataclasses, enum\n"
        "def grade(sample, item):\n    "
    )
    assert graded(runner, "return difflib.SequenceMatcher(None, 'ab', 'ab').ratio()", head=head).reward == 1
    first, second = (graded(runner, "return random.random()", head=head).reward for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return len(bytearray(1 << 30))", "MemoryError"),
        ("kept = []\n    while True: kept.append('x' * (1 << 20))", "MemoryError"),
        ("os._exit(3)", "ended its interpreter"),
        ("import ctypes; return 1", "No module named 'ctypes'"),
        ("import socket; return 1", "No module named 'socket'"),
        ("import subprocess; return 1", "No module named 'subprocess'"),
        ("import threading; threading.Thread(target=print).start(); return 1", "can't start new thread"),
        ("return eval('(' * 150 + '1' + ')' * 150)", "MemoryError"),
        ("return os.fork()", "AttributeError"),
        ("return os.kill(1, 9)", "AttributeError"),
        ("return len(open(item['file']).read())", "No such file"),
        ("open(item['file'], 'w'); return 1", "No such file"),
        ("os.unlink(item['file']); return 1", "No such file"),
        ("os.mkdir('folder'); return 1", "No such file"),
        ("return len(os.listdir('/'))", "No such file"),
        ("return len(open('/proc/self/environ').read())", "No such file"),
        ("os.symlink('/etc/passwd', 'link'); return 1", "No such file"),
    ],
)
def test_what_it_may_not_do_fails_and_says_why(runner, tmp_path, body, reason):
    file = tmp_path / "secret"
    file.write_text("secret")
    grade = graded(runner, body, {"file": str(file)})
    assert (grade.reward, set(grade.flags)) == (0, {Flag.PYTHON_RUNTIME})
    assert grade.failed and reason in grade.failed
    assert (file.read_text(), os.listdir(tmp_path)) == ("secret", ["secret"])
    assert graded(runner, "return 0.5").reward == 0.5


@pytest.mark.parametrize(
    "body",
    [
        "import re; return len(re.match('(a+)+$', 'a' * 50 + 'b') or [])",
        "return len(str(9 ** 9 ** 9))",
    ],
)
def test_a_call_ends_when_its_time_is_over(folder, body):
    with PythonRunner(seconds=2, children=1, sandbox=lambda: sandbox.wasm(folder)) as hasty:
        assert graded(hasty, "return 1").reward == 1
        started = time.monotonic()
        grade = graded(hasty, body)
        assert grade.failed == "The source took longer than 2 seconds."
        assert time.monotonic() - started < 30
        assert graded(hasty, "return 1").reward == 1


def test_what_freezes_late_or_by_name_is_there(runner):
    head = (
        "import datetime, logging, pathlib, urllib.parse, xml.etree.ElementTree as tree\ndef grade(sample, item):\n    "
    )
    body = (
        "return (datetime.datetime.strptime('2020', '%Y').year == 2020) + (len('\u20ac'.encode('cp1252')) == 1) + "
        "(tree.fromstring('<a>1</a>').text == '1')"
    )
    assert graded(runner, body, head=head).reward == 3


def test_a_damaged_component_is_not_the_sources_doing(folder, tmp_path):
    whole = components.component(folder)
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:1_000_000])
    with PythonRunner(sandbox=lambda: sandbox.wasm(tmp_path)) as runner:
        assert graded(runner, "return 1").flags == {Flag.PYTHON_SERVER}


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="limits are read where Linux tells them")
def test_a_source_that_outlives_its_service_is_bounded_and_has_no_rights(runner):
    graded(runner, "return 1")
    (child, *_) = [child for child in psutil.Process().children() if "wasm_child" in " ".join(child.cmdline())]
    (cpu,) = [line for line in Path(f"/proc/{child.pid}/limits").read_text().splitlines() if "cpu time" in line]
    assert cpu.split()[3:5] == ["720", "720"]
    if os.geteuid() == 0 and PythonRunner().guards()["user"]:
        assert 0 not in child.uids()


def test_calls_share_nothing_not_even_of_one_source(runner):
    head = "import json\nseen = [json.loads('[0]')]\ndef grade(sample, item):\n    "
    body = "seen.append(1); json.loads = None; return len(seen)"
    assert [graded(runner, body, head=head).reward for _ in range(3)] == [2, 2, 2]


def test_printing_and_the_environment_lead_nowhere(runner, monkeypatch):
    monkeypatch.setenv("ROOTSTOCK_SECRET", "secret")
    body = "print('{\"value\": 9.0}'); os.write(1, b'x' * 100000); sys.stdin.read(); return 0.5 + len(os.environ)"
    assert graded(runner, body).reward == 0.5


def test_many_threads_and_nothing_left_when_it_closes(folder):
    before = set(psutil.Process().children(recursive=True))
    rewards = {}

    with PythonRunner(children=2, sandbox=lambda: sandbox.wasm(folder)) as runner:

        def work(number):
            rewards[number] = graded(runner, f"return item['n'] + {number % 3}", {"n": number}).reward

        threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert rewards == {number: number + number % 3 for number in range(9)}
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def unconfined(monkeypatch, bare):
    """A machine whose processes cannot give up their rights."""
    monkeypatch.setattr(sandbox, "PROCESS", bare)
    monkeypatch.setattr(sandbox, "_confined", lambda: False)


def told(runner):
    """Which sandbox a runner's sources are in."""
    return set(runner.guards())


def test_the_sandbox_is_what_is_asked_for_or_what_there_is(folder, unconfined):
    with open_runner(folder, "auto") as runner:
        assert told(runner) == {"wasm"} and graded(runner, "return 1").reward == 1
    with open_runner(folder, "process") as runner:
        grade = graded(runner, "return 1")
        assert grade.flags == {Flag.PYTHON_SERVER} and "'wasm'" in grade.failed


def test_processes_are_taken_where_they_are_safe(folder, monkeypatch):
    monkeypatch.setattr(sandbox, "_confined", lambda: True)
    with open_runner(folder, "auto") as runner:
        assert "wasm" not in told(runner)
    with open_runner(folder, "wasm") as runner:
        assert told(runner) == {"wasm"}


def test_without_its_packages_wasm_is_refused_in_words(tmp_path, unconfined, monkeypatch):
    for module in (components, sandbox):
        monkeypatch.setattr(module, "installed", lambda: False)
    for mode in ("wasm", "auto"):
        with open_runner(tmp_path, mode) as runner:
            grade = graded(runner, "return 1")
        assert grade.flags == {Flag.PYTHON_SERVER} and "wasm" in grade.failed
    assert not list(tmp_path.glob("*.cwasm"))
