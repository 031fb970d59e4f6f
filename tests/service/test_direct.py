"""The routes that answer for models are found before the framework: what it does for others is done for them, too."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from service import inference
from service.gateway import Gateway
from service.inference import Question
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, refusal
from tests.waiting import eventually

BODY: dict[str, Any] = {"model": "rootstock-tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1//chat/completions", "/v1/chat/completions"])
def test_paths_are_read_as_everywhere_and_counted_under_the_route(api: Api, path: str) -> None:
    line = 'rootstock_requests_total{method="POST",route="/v1/chat/completions",status="200"}'

    def counted() -> float:
        return sum(float(one.split()[-1]) for one in api.get("/metrics").text.splitlines() if one.startswith(line))

    before = counted()
    answer = api.post(path, json=BODY)
    assert answer.status_code == 200 and answer.headers["x-request-id"]
    assert counted() == before + 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_other_methods_are_refused_as_everywhere(api: Api, method: str) -> None:
    refused = api.http.request(method, "/v1/completions")
    assert refused.status_code == 405 and refused.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_foresaw_is_a_plain_500(api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret /path and SELECT")

    monkeypatch.setattr(Gateway, "choose", fail)
    refused = api.post("/v1/chat/completions", json=BODY | {"stream": stream})
    assert refused.status_code == 500
    assert refused.json()["error"]["type"] == "server_error" and "secret" not in refused.text


def test_an_exception_in_half_an_answer_cuts_it_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> list[bytes]:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(inference.Chunks, "event", fail)
    answer = api.post("/v1/chat/completions", json=BODY | {"stream": True})
    assert "[DONE]" not in answer.text
    monkeypatch.undo()
    assert "[DONE]" in api.post("/v1/chat/completions", json=BODY | {"stream": True}).text


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_a_refused_question_is_not_kept_in_memory(api: Api, vllm: FakeVllm) -> None:
    # An engine that is away is asked by many, with long prompts, and the collector comes late.
    assert api.post("/v1/chat/completions", json=BODY | {"model": "ft:absent"}).status_code == 404
    vllm.refuse = refusal(500, "no")
    assert api.post("/v1/chat/completions", json=BODY).status_code == 503
    # What answered it ends a moment after its answer has arrived.
    eventually(lambda: not any(type(found) is Question for found in gc.get_objects()), seconds=5)
