"""A distillation in a real worker process that is killed: the next one goes on where its rows are."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.service.conftest import Api, served
from tests.service.fake_vllm import FakeVllm
from tests.service.test_batch_worker import Start, redis_url, start
from tests.service.test_distillations import inline, lines, look
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

__all__ = ["redis_url", "start"]

PROMPTS, ANSWERED = 60, 20


@pytest.fixture
def api(make_api: Callable[..., Api], vllm: FakeVllm, redis_url: str) -> Iterator[Api]:
    more = {"lease_seconds": 2, "heartbeat_seconds": 0.5, "poll_seconds": 0.5, "batch_concurrency": 4}
    with served(vllm.app()) as url:
        yield make_api(vllm_url=url, redis_url=redis_url, **more)


def test_a_killed_worker_has_nothing_asked_twice_that_was_answered(api: Api, vllm: FakeVllm, start: Start) -> None:
    def hang_later(_: dict[str, Any]) -> None:
        vllm.hang = len(vllm.received) > ANSWERED

    vllm.refuse_some = hang_later
    first = start()
    made = inline(api, [f"question {n}" for n in range(PROMPTS)])
    eventually(lambda: vllm.running == 4 and look(api, made)["counts"]["done"] == ANSWERED)
    first.send_signal(signal.SIGKILL)
    first.wait()
    vllm.refuse_some, vllm.hang = lambda _: None, False
    start()
    eventually(lambda: look(api, made)["status"] == "completed")
    run = look(api, made)
    assert len(lines(api, run)) == run["counts"]["kept"] == PROMPTS
    asked = [body["messages"][-1]["content"] for body in vllm.received]
    assert len(asked) == PROMPTS + 4, "only what was being asked is asked again"
    assert all(asked.count(question) == 1 for question in asked[:ANSWERED])
    (spent,) = api.get("/v1/rootstock/usage", params={"group_by": "none"}).json()["data"]
    assert spent["requests"] == PROMPTS
