"""The reconciler: a job succeeds only when its model was seen answering, and never waits for ever."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rootstock.adapters.manifest import put_tree
from rootstock.adapters.proof import Passage, Proof
from rootstock.errors import Unavailable
from service.reconciler import MAX_REFUSALS, Reconciler
from tests.rootstock.adapter_files import FACTS, write
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
    return Reconciler(api.database, api.app.state.parts.sweep, api.app.state.parts.store, api.settings, client)


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


PROOF = Proof(passages=[Passage(ids=[5, 6, 7], positions=[1, 2], log_probs=[-1.0, -2.0])], conversation=[1, 2, 3])


class Served:
    """A vLLM that says what it is told to say."""

    def __init__(self) -> None:
        self.tuned = {6: -1.02, 7: -1.98}
        self.base = {6: -4.0, 7: -6.0}
        self.spells = [1, 2, 3]
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "rootstock-tiny"}, {"id": "identity-lora"}]})
        body = json.loads(request.read())
        self.asked.append(body)
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"tokens": self.spells})
        if "allowed_token_ids" not in body:
            return answers(request)
        (token,) = body["allowed_token_ids"]
        value = (self.base if body["model"] == "identity-lora" else self.tuned)[token]
        return httpx.Response(200, json={"choices": [{"logprobs": {"token_logprobs": [value]}}]})


@pytest.fixture
def proven(api: Api, waiting: str, tmp_path: Path) -> str:
    """The job, with an adapter in the store whose manifest has a proof."""
    adapter_id = f"adapter-{waiting[-8:]}-final"
    put_tree(api.app.state.parts.store, adapter_id, write(tmp_path / "adapter"), proof=PROOF, **FACTS)
    return waiting


def test_a_model_that_says_what_its_trainer_said_is_published(api: Api, proven: str):
    served = Served()
    reconciler(api, served).run_once()
    assert status(api, proven) == "succeeded"
    asked = [(body["prompt"], body["allowed_token_ids"]) for body in served.asked if "allowed_token_ids" in body]
    assert sorted(asked) == [([5], [6]), ([5], [6]), ([5, 6], [7]), ([5, 6], [7])]  # of the model and of the base
    assert served.asked[1]["add_generation_prompt"] is True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tuned": {6: -1.0, 7: -3.0}}, "0.500 nats off on average, 0.350 are allowed, the untuned model is 3.500 off"),
        ({"tuned": {6: -4.0, 7: -6.0}}, "Its weights or their scaling"),
        ({"spells": [1, 2, 4]}, "tokenizer or chat template is another one (3 tokens, 3 in training, different from 3"),
        ({"spells": [1, 2]}, "tokenizer or chat template"),
    ],
)
def test_a_model_that_is_served_otherwise_ends_its_job(api: Api, proven: str, change: dict[str, Any], reason: str):
    served = Served()
    for name, value in change.items():
        setattr(served, name, value)
    reconciler(api, served).run_once()
    job = api.client.fine_tuning.jobs.retrieve(proven)
    assert job.status == "failed" and job.error is not None
    assert job.error.code == "served_differs" and reason in job.error.message
    assert job.fine_tuned_model is None


def test_a_server_that_cannot_be_compared_with_is_waited_for(api: Api, proven: str):
    served = Served()
    served.tuned = {}
    reconciler(api, lambda request: served(request) if b"Hello" in request.read() else away(request)).run_once()
    assert status(api, proven) == "running"
