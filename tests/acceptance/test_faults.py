"""kill -9 of every part: after its restart the job finishes, the model answers, no row is lost."""

import contextlib
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.acceptance.conftest import Stack, finished, metrics, rows, small_job, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def tuned(stack: Stack) -> str:
    """A model that answered before anything was killed."""
    return str(finished(stack.client, small_job(stack.client, count=16, epochs=1).id).fine_tuned_model)


def answers(client: OpenAI, model: str) -> bool:
    question = rows("tickets-heldout.jsonl", 1)[0]["messages"][:-1]
    with contextlib.suppress(openai.APIError):
        return bool(client.chat.completions.create(model=model, messages=question, max_tokens=4).choices)
    return False


def step_of(client: OpenAI, job_id: str) -> int:
    newest = client.fine_tuning.jobs.list_events(job_id, limit=1).data[0]
    return int(metrics(newest).get("step", 0))


def test_the_worker_dies_in_mid_training(stack: Stack, client: OpenAI) -> None:
    job = small_job(client, count=240, epochs=1)
    wait_for(lambda: step_of(client, job.id) >= 3, 90, "the first steps")
    stack.kill("-m trainer")
    job = finished(client, job.id)
    assert job.status == "succeeded", job.error
    told = [metrics(event) for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)]
    steps = [data["step"] for data in told if data]
    assert sorted(steps) == list(range(1, 31)), "each step is told exactly once"


def test_the_engine_dies_in_mid_stream(stack: Stack, client: OpenAI, tuned: str) -> None:
    question = [{"role": "user", "content": "Tell me a long story about a ticket."}]
    stream = client.with_options(max_retries=0).chat.completions.create(
        model=tuned,
        messages=question,
        max_tokens=1500,
        stream=True,
        extra_body={},  # type: ignore[arg-type]
    )
    received = 0
    with contextlib.suppress(openai.APIError):
        for _ in stream:
            received += 1
            if received == 3:
                stack.kill("vllm.entrypoints")
    assert received >= 3
    wait_for(lambda: answers(client, tuned), 240, "the model to answer again")


def test_the_api_dies(stack: Stack, client: OpenAI, tuned: str) -> None:
    job = small_job(client, count=48, epochs=1)
    stack.kill("-m service serve")

    def look() -> bool:
        with contextlib.suppress(openai.APIError):
            return client.fine_tuning.jobs.retrieve(job.id).id == job.id
        return False

    wait_for(look, 60, "the API to come back")
    assert finished(client, job.id).status == "succeeded"
    assert answers(client, tuned)


def test_redis_dies_and_forgets_everything(stack: Stack, client: OpenAI, tuned: str) -> None:
    running = small_job(client, count=120, epochs=1)
    wait_for(lambda: step_of(client, running.id) >= 1, 90, "the first step")
    stack.kill("redis")
    for leftover in Path(stack.data_dir).rglob("*.aof*"):
        if leftover.is_file():
            leftover.unlink()
    created_meanwhile = small_job(client, count=16, epochs=1)
    assert finished(client, running.id).status == "succeeded"
    assert finished(client, created_meanwhile.id).status == "succeeded"
    assert answers(client, tuned)
