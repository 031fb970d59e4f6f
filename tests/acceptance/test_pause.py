"""Pause and resume with real processes: the worker is free meanwhile, and the result is whole."""

import pytest
from openai import OpenAI

from tests.acceptance.conftest import Stack, finished, metrics, rows, small_job, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]


def steps(client: OpenAI, job_id: str) -> list[int]:
    told = [metrics(event) for event in client.fine_tuning.jobs.list_events(job_id, limit=1000)]
    return sorted(int(data["step"]) for data in told if data)


def test_a_paused_job_frees_its_worker_and_ends_like_any_other(stack: Stack, client: OpenAI) -> None:
    calls = client.fine_tuning.jobs
    job = small_job(client, count=240, epochs=1)
    wait_for(lambda: len(steps(client, job.id)) >= 3, 90, "the first steps")
    assert str(calls.pause(job.id).status) == "paused"
    saved = wait_for(lambda: calls.checkpoints.list(job.id).data, 60, "the checkpoint of the pause")[0]
    wait_for(lambda: calls.list_events(job.id, limit=1).data[0].message == "Job paused", 30, "the worker to let go")
    stopped_at = len(steps(client, job.id))
    assert saved.step_number == stopped_at < 30

    other = finished(client, small_job(client, count=16, epochs=1).id)
    assert other.status == "succeeded", other.error
    assert str(calls.retrieve(job.id).status) == "paused"
    assert len(steps(client, job.id)) == stopped_at
    question = rows("tickets-heldout.jsonl", 1)[0]["messages"][:-1]
    name = saved.fine_tuned_model_checkpoint
    assert client.chat.completions.create(model=name, messages=question, max_tokens=4).model == name

    assert calls.resume(job.id).status == "queued"
    done = finished(client, job.id)
    assert done.status == "succeeded", done.error
    assert steps(client, job.id) == list(range(1, 31)), "each step is told exactly once"

    child = finished(client, small_job(client, count=16, epochs=1, model=done.fine_tuned_model).id)
    assert child.status == "succeeded", child.error
    assert child.model == done.model
    assert child.rootstock["start_model"] == done.fine_tuned_model
