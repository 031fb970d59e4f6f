"""The reconciler: a job succeeds only when its model was seen answering, and never waits for ever."""

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rootstock.errors import Unavailable
from service.reconciler import MAX_REFUSALS, Reconciler
from tests.service.conftest import Api

Answer = Callable[[httpx.Request], httpx.Response]


def refuse(status: int) -> Answer:
    return lambda _: httpx.Response(status, json={"error": {"message": "no such adapter"}})


def away(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def answers(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"text": "x"}]})


def reconciler(api: Api, answer: Answer) -> Reconciler:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return Reconciler(api.database, api.app.state.parts.sweep, api.settings, client)


@pytest.fixture
def waiting(api: Api) -> str:
    """A job that is trained and stored."""
    api.job()
    return api.finalize(api.claim()).id


def status(api: Api, job_id: str) -> str:
    return api.client.fine_tuning.jobs.retrieve(job_id).status


def test_a_model_that_answers_is_published(api: Api, waiting: str):
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, request.read()))
        return answers(request)

    reconciler(api, answer).run_once()
    job = api.client.fine_tuning.jobs.retrieve(waiting)
    assert job.status == "succeeded" and job.fine_tuned_model in [model.id for model in api.client.models.list()]
    assert asked[0][0] == "/v1/completions" and b'"max_tokens":1' in asked[0][1].replace(b" ", b"")


def test_a_job_already_published_is_not_asked_about_again(api: Api, waiting: str):
    reconciler(api, answers).run_once()
    reconciler(api, lambda _: pytest.fail("asked again")).run_once()


def test_an_engine_that_is_away_is_waited_for(api: Api, waiting: str):
    patient = reconciler(api, away)
    for _ in range(MAX_REFUSALS + 3):
        patient.run_once()
    assert status(api, waiting) == "running"
    reconciler(api, refuse(503)).run_once()
    assert status(api, waiting) == "running"
    reconciler(api, answers).run_once()
    assert status(api, waiting) == "succeeded"


@pytest.mark.parametrize("code", [400, 404])
def test_a_definite_refusal_ends_the_job_after_a_short_patience(api: Api, waiting: str, code: int):
    strict = reconciler(api, refuse(code))
    for _ in range(MAX_REFUSALS - 1):
        strict.run_once()
    assert status(api, waiting) == "running"
    strict.run_once()
    job = api.client.fine_tuning.jobs.retrieve(waiting)
    assert job.status == "failed" and job.error is not None and job.error.code == "server_error"
    assert "no such adapter" in job.error.message and job.fine_tuned_model is None and job.trained_tokens is None


def test_an_engine_that_stays_away_ends_the_job_with_a_reason(make_api: Any):
    api = make_api(publish_timeout_seconds=0.001)
    api.job()
    job = api.finalize(api.claim())
    time.sleep(0.01)
    reconciler(api, away).run_once()
    failed = api.client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == "failed" and "did not answer within" in failed.error.message


def test_without_serving_a_job_succeeds_with_a_warning(make_api: Any):
    api = make_api(vllm_url=None)
    api.job()
    job = api.finalize(api.claim())
    reconciler(api, away).run_once()
    assert status(api, job.id) == "succeeded"
    levels = [event.level for event in api.client.fine_tuning.jobs.list_events(job.id)]
    assert levels.count("warn") == 1


def test_a_job_cancelled_meanwhile_stays_cancelled(api: Api, waiting: str):
    def answer(request: httpx.Request) -> httpx.Response:
        api.client.fine_tuning.jobs.cancel(waiting)
        return answers(request)

    reconciler(api, answer).run_once()
    assert status(api, waiting) == "cancelled"


def test_the_thread_survives_failures_and_stops_at_once(api: Api, waiting: str, monkeypatch: pytest.MonkeyPatch):
    calls: list[None] = []
    done = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(None)
        if len(calls) == 1:
            raise Unavailable("the database is away")
        if len(calls) == 2:
            raise RuntimeError("unforeseen")
        done.set()
        return answers(request)

    monkeypatch.setattr("service.reconciler.TICK_SECONDS", 0.01)
    background = reconciler(api, answer)
    background.start()
    assert done.wait(20)
    background.stop()
    assert not [thread for thread in threading.enumerate() if thread.name in ("sweep", "publish")]
    assert status(api, waiting) == "succeeded"
