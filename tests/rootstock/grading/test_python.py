"""Python graders in real processes: what they may do, and what becomes of those that misbehave."""

import os
import sys
import threading
from pathlib import Path

import psutil
import pytest

from rootstock.errors import InvalidRequest, InvalidValue
from rootstock.grading import Flag, PythonRunner, Sample, compile_grader
from tests.rootstock.grading.conftest import HEAD, graded

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the guards are Linux's")


@pytest.fixture(scope="module")
def runner():
    with PythonRunner(seconds=30, children=2) as python:
        yield python


@pytest.fixture
def hasty():
    with PythonRunner(seconds=2, children=1) as python:
        yield python


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return len(bytearray(3 << 30))", "MemoryError"),
        ("os._exit(3)", "exit code 3"),
        ("os.closerange(3, 64); import time; time.sleep(60)", "closed the connection"),
    ],
)
def test_what_its_process_does_not_survive_fails_and_says_why(runner, body, reason):
    grade = graded(runner, body)
    assert (grade.reward, set(grade.flags)) == (0, {Flag.PYTHON_RUNTIME})
    assert grade.failed and reason in grade.failed
    assert graded(runner, "return 0.5").reward == 0.5


def test_an_item_larger_than_the_pipe_does_not_outlast_the_limit(hasty):
    head = "import time\ntime.sleep(60)\ndef grade(sample, item):\n    "
    assert graded(hasty, "return 1", {"a": "x" * 5_000_000}, head=head).flags == {Flag.PYTHON_RUNTIME}


def test_a_memory_bomb_hits_its_own_limit_only():
    with PythonRunner(seconds=20, memory_bytes=256 << 20) as python:
        grade = graded(python, "kept = []\n    while True: kept.append('x' * (1 << 20))")
    assert grade.failed and "MemoryError" in grade.failed


def test_printing_does_not_mix_with_the_answer(runner):
    body = "print('{\"value\": 9.0}'); os.write(1, b'x' * 100000); os.write(2, b'x'); sys.stdin.read(); return 0.5"
    assert graded(runner, body).reward == 0.5


@pytest.mark.parametrize(
    "answer", ['{"id": 99, "value": 1.0}', "nonsense", '{"id": 1, "value": "1"}', "[]", "x" * 99_999]
)
def test_a_forged_answer_is_no_grade(runner, answer):
    body = f"os.write(int(sys.orig_argv[-4]), {answer.encode()!r} + b'\\n'); return 1"
    assert graded(runner, body).failed == "The source interfered with its own process."


def test_sources_share_nothing(runner):
    assert graded(runner, "import json; json.dumps = len; sys.path = []; return 1").reward == 0
    assert graded(runner, "import json; return int(json.dumps([1]) == '[1]')").reward == 1


def test_a_process_is_kept_for_its_source_and_the_scratch_folder_is_emptied(runner):
    body = "open('left', 'w').write('x'); seen.append(1); return len(seen) + 10 * len(os.listdir())"
    head = "import os\nseen = []\ndef grade(sample, item):\n    "
    assert [graded(runner, body, head=head).reward for _ in range(3)] == [11, 12, 13]


def test_a_process_with_threads_left_behind_is_not_kept(runner):
    body = "seen.append(1); threading.Thread(target=time.sleep, args=(60,)).start(); return len(seen)"
    head = "import threading, time\nseen = []\ndef grade(sample, item):\n    "
    assert [graded(runner, body, head=head).reward for _ in range(2)] == [1, 1]


def test_many_threads_and_more_sources_than_processes(runner):
    rewards = {}

    def work(number):
        rewards[number] = graded(runner, f"return item['n'] + {number % 5}", {"n": number}).reward

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rewards == {number: number + number % 5 for number in range(20)}
    assert len([child for child in psutil.Process().children() if "python_child" in " ".join(child.cmdline())]) <= 2


def test_nothing_is_left_when_it_closes():
    before = set(psutil.Process().children(recursive=True))
    with PythonRunner() as python:
        failed = graded(python, "raise ValueError(os.getcwd())").failed or ""
        scratch = Path(failed.split("ValueError: ")[1].split(" (line")[0])
        assert scratch.is_dir()
    assert not scratch.exists()
    assert set(psutil.Process().children(recursive=True)) <= before
    assert graded(python, "return 1").flags == {Flag.PYTHON_SERVER}


def test_the_environment_is_empty(runner, monkeypatch):
    monkeypatch.setenv("ROOTSTOCK_SECRET", "secret")
    body = "return 1 + any('ROOTSTOCK' in k or 'PATH' in k or 'HOME' in k for k in os.environ)"
    with PythonRunner() as python:
        assert graded(python, body).reward == 1


@LINUX
def test_no_descendant_outlives_a_hanging_source(hasty):
    # Where processes are guarded, fork is refused; elsewhere the whole group is killed.
    before = set(psutil.Process().children(recursive=True))
    assert graded(hasty, "os.fork(); import time; time.sleep(60)").reward == 0
    hasty.close()
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not [process for process in psutil.process_iter(["ppid", "cmdline"]) if _orphaned(process)]


def _orphaned(process):
    return process.info["ppid"] == 1 and "python_child" in " ".join(process.info["cmdline"] or [])


@LINUX
@pytest.mark.parametrize(
    ("guard", "body"),
    [
        ("network", "import socket; socket.socket(); return 1"),
        ("network", "import socket; socket.socket(socket.AF_UNIX); return 1"),
        ("network", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9'); return 1"),
        ("processes", "os.fork(); return 1"),
        ("processes", "__import__('subprocess').run(['true']); return 1"),
        ("processes", "os.execv(sys.executable, [sys.executable]); return 1"),
        ("processes", "os.kill(os.getppid(), 0); return 1"),
        ("processes", "__import__('resource').prlimit(os.getppid(), 7, (9, 9)); return 1"),
        ("processes", "__import__('fcntl').fcntl(0, 8, os.getppid()); return 1"),
        ("processes", "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); return 1"),
        ("processes", "os.mkfifo('pipe'); return 1"),
        ("processes", "os.symlink('/etc/passwd', 'link'); return 1"),
        ("processes", "os.link(item['file'], 'link'); return 1"),
        ("processes", "os.memfd_create('x'); return 1"),
        ("processes", "os.setuid(0); return 1"),
        ("processes", "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.chroot('/'); return 1"),
        (
            "network",
            "import socket; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); "
            "a.sendto(b'x', '/run/x'); return 1",
        ),
        ("processes", "os.chmod(item['file'], 0o777); return 1"),
        ("files", "return len(open(item['file']).read())"),
        ("files", "open(item['file'], 'w'); return 1"),
        ("files", "os.unlink(item['file']); return 1"),
        ("files", "return len(os.listdir(item['folder']))"),
        ("files", "open(item['folder'] + '/new', 'w'); return 1"),
        ("files", "os.mkdir('folder'); return 1"),
        ("files", "return len(open(f'/proc/{os.getppid()}/environ').read())"),
        ("files", "return len(os.listdir('/proc'))"),
    ],
)
def test_guards(runner, tmp_path, guard, body):
    if not runner.guards()[guard]:
        pytest.skip(f"this kernel or container does not guard {guard}")
    file = tmp_path / "secret"
    file.write_text("secret")
    mode = file.stat().st_mode
    grade = graded(runner, body, {"file": str(file), "folder": str(tmp_path)})
    assert grade.failed and ("Permission" in grade.failed or "permitted" in grade.failed), grade
    assert (file.read_text(), file.stat().st_mode, os.listdir(tmp_path)) == ("secret", mode, ["secret"])


def test_where_a_guard_is_missing_nothing_is_run(tmp_path, bare):
    ran = tmp_path / "ran"
    with PythonRunner(seconds=30, sandbox=lambda: bare) as python:
        grade = graded(python, "return 1", head=f"open({str(ran)!r}, 'w')\ndef grade(sample, item):\n    ")
        assert not python.guards()["processes"]
    assert grade.flags == {Flag.PYTHON_SERVER} and "network, processes" in grade.failed
    assert not ran.exists()


@LINUX
def test_it_never_runs_as_root_and_an_event_loop_still_works(runner):
    assert graded(runner, "return min(os.getresuid() + os.getresgid()) or -1").reward > 0
    body = "import asyncio; return asyncio.run(asyncio.sleep(0, 0.5))"
    assert graded(runner, body).reward == 0.5


@LINUX
def test_threads_and_installed_packages_still_work(runner):
    body = (
        "import concurrent.futures, rapidfuzz.fuzz, zoneinfo\n    "
        "pool = concurrent.futures.ThreadPoolExecutor(2)\n    "
        "return sum(pool.map(float, [1, 2])) + rapidfuzz.fuzz.ratio('a', 'a')"
    )
    assert graded(runner, body).reward == 103


@pytest.mark.parametrize(
    ("source", "cure"),
    [
        ("def grade(sample", "line 1"),
        ("x = 1", "no function 'grade'"),
        ("class A:\n    def grade(self, sample, item): return 1", "no function 'grade'"),
        ("def other():\n    def grade(sample, item): return 1", "no function 'grade'"),
        ("async def grade(sample, item): return 1", "async"),
        ("class grade: pass", "not a class"),
        ("def grade(sample): return 1", "two arguments"),
        ("def grade(sample, item, more): return 1", "two arguments"),
        ("def grade(sample, item, *, more): return 1", "two arguments"),
        ("x = '\0'\ndef grade(sample, item): return 1", "not Python"),
        ("x = '\ud800'\ndef grade(sample, item): return 1", "half a character"),
        ("x = " + "-" * 50_000 + "1", "nested too deeply"),
        ("x = " + "(" * 50_000, "not Python"),
        ("return 1\ndef grade(sample, item): return 1", "not Python"),
        ("#" * 256 * 1024 + "\ndef grade(sample, item): return 1", "at most 262144"),
    ],
)
def test_sources_that_cannot_grade_are_refused(source, cure):
    with pytest.raises(InvalidValue, match=cure) as refused:
        compile_grader({"type": "python", "source": source})
    assert refused.value.param == "method.reinforcement.grader.source"


def test_without_a_runner_it_is_checked_but_not_run():
    grader = compile_grader({"type": "python", "source": HEAD + "return 1"})
    assert grader.name == "python"
    assert grader.grade({}, Sample.of(""), None).flags == {Flag.PYTHON_SERVER}
    with pytest.raises(InvalidRequest):
        compile_grader({"type": "python"})
