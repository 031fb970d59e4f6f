"""The gateway on the fake vLLM: names, the allow-list, shapes, refusals in our words."""

import asyncio
import json
from typing import Any

import openai
import pytest
from anyio.from_thread import BlockingPortal
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from service import presence
from tests.service.conftest import OTHER_PROJECT, Api
from tests.service.fake_vllm import FakeVllm, refusal

HELLO: Any = [{"role": "user", "content": "Hi"}]
ADAPTER = "adapter-tuned-1"


@pytest.fixture
def tuned(api: Api) -> str:
    return api.model("ft:gpt-4o-mini-2024-07-18:rootstock:tune:abcdefgh", ADAPTER)


def chat(api: Api, **body: Any) -> Any:
    return api.post("/v1/chat/completions", json={"model": "rootstock-tiny", "messages": HELLO} | body)


def complete(api: Api, **body: Any) -> Any:
    return api.post("/v1/completions", json={"model": "rootstock-tiny", "prompt": "Hi"} | body)


def test_a_tuned_model_answers_under_its_public_name(api: Api, vllm: FakeVllm, tuned: str):
    answer = api.client.chat.completions.create(model=tuned, messages=HELLO, max_tokens=5, temperature=0)
    assert answer.model == tuned and answer.choices[0].message.content == "Hello wörld"
    assert answer.usage is not None and answer.usage.total_tokens == 8
    assert vllm.received == [{"model": ADAPTER, "messages": HELLO, "max_tokens": 5, "temperature": 0.0}]


@pytest.mark.parametrize("name", ["rootstock-tiny", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"])
def test_the_base_goes_through_the_identity_adapter_where_there_is_one(api: Api, vllm: FakeVllm, name: str):
    assert api.client.chat.completions.create(model=name, messages=HELLO).model == name
    assert vllm.received[0]["model"] == "identity-lora"


@pytest.mark.parametrize(("listed", "sent"), [(["rootstock-tiny", "x"], "rootstock-tiny"), (["qwen"], "qwen")])
def test_without_one_the_base_goes_by_the_name_that_vllm_serves(api: Api, vllm: FakeVllm, listed: list[str], sent: str):
    vllm.models = listed
    chat(api)
    assert vllm.received[0]["model"] == sent


def test_the_base_name_is_asked_again_after_a_refusal(api: Api, vllm: FakeVllm):
    chat(api)
    vllm.refuse = refusal(404, "The model `identity-lora` does not exist.")
    assert chat(api).status_code == 503
    vllm.refuse, vllm.models = None, ["rootstock-tiny"]
    chat(api)
    assert vllm.received[-1]["model"] == "rootstock-tiny"


def test_a_checkpoint_answers(api: Api, vllm: FakeVllm):
    api.job()
    name = api.checkpoint(api.claim(), 3)
    assert api.client.chat.completions.create(model=name, messages=HELLO).model == name
    assert vllm.received[0]["model"].startswith("adapter-")


@pytest.mark.parametrize(
    "name", ["ft:a:b::c", "../x", "/etc/passwd", "adapter-tuned-1", "identity-lora", "é", "x" * 9999]
)
def test_an_unknown_model_is_404_and_vllm_never_hears_of_it(api: Api, vllm: FakeVllm, tuned: str, name: str):
    for answer in (chat(api, model=name), complete(api, model=name)):
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert error["message"] == f"The model `{name[:256]}` does not exist or you do not have access to it."
        assert (error["code"], error["param"]) == ("model_not_found", None)
    assert vllm.received == []


def test_foreign_deleted_and_unfinished_models_read_like_unknown_ones(api: Api, vllm: FakeVllm, tuned: str):
    theirs = api.model("ft:a:b::theirs", "adapter-theirs", project=OTHER_PROJECT)
    api.client.models.delete(tuned)
    job = api.finalize(api.claim())
    unfinished = api.client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint
    for name in (theirs, tuned, unfinished):
        with pytest.raises(openai.NotFoundError) as caught:
            api.client.chat.completions.create(model=name, messages=HELLO)
        assert f"`{name}` does not exist" in str(caught.value)
    assert vllm.received == []


def test_answers_validate_strictly_against_the_sdks_types(api: Api):
    ChatCompletion.model_validate(chat(api).json(), extra="forbid")
    Completion.model_validate(complete(api).json(), extra="forbid")


def test_nothing_of_the_engine_shows(api: Api):
    whole = chat(api).text + complete(api).text + chat(api, stream=True).text + complete(api, stream=True).text
    for word in (
        "stop_reason",
        "token_ids",
        "prompt_logprobs",
        "kv_transfer",
        "reasoning",
        "identity-lora",
        "routed",
        "vllm",
    ):
        assert word not in whole


def test_a_plain_completion(api: Api, vllm: FakeVllm, tuned: str):
    answer = api.client.completions.create(model=tuned, prompt="Once", max_tokens=3)
    assert (answer.object, answer.model, answer.choices[0].text) == ("text_completion", tuned, "Hello wörld")
    assert vllm.received == [{"model": ADAPTER, "prompt": "Once", "max_tokens": 3}]


def events(answer: Any) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.text.split("\n\n")
    assert frames.pop() == "" and all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    return [frame[6:] if frame == "data: [DONE]" else json.loads(frame[6:]) for frame in frames]


def test_a_streamed_chat_has_the_live_shape(api: Api, vllm: FakeVllm, tuned: str):
    *chunks, done = events(chat(api, model=tuned, stream=True))
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, extra="forbid")
    assert {chunk["model"] for chunk in chunks} == {tuned}
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Hello wörld"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_last_when_asked_for(api: Api, tuned: str):
    stream = api.client.chat.completions.create(
        model=tuned, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    raw = events(chat(api, stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in raw[:-2])


def test_a_streamed_completion(api: Api, tuned: str):
    stream = api.client.completions.create(model=tuned, prompt="Once", stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello wörld"
    assert {chunk.model for chunk in chunks} == {tuned}


def test_an_error_inside_a_stream_is_an_error_event(api: Api, vllm: FakeVllm):
    vllm.error_after = 2
    *chunks, last = events(chat(api, stream=True))
    assert len(chunks) == 2 and set(last["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.APIError, match="stopped answering"):
        list(api.client.chat.completions.create(model="rootstock-tiny", messages=HELLO, stream=True))


def test_a_stream_that_never_began_is_refused_with_a_status(api: Api, vllm: FakeVllm):
    vllm.error_after = 0
    answer = chat(api, stream=True)
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "service_unavailable"


IGNORED = {
    "user": "u",
    "store": True,
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "verbosity": "low",
    "reasoning_effort": "low",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "modalities": ["text"],
    "prediction": {"type": "content", "content": "x"},
    "seed": None,
    "logit_bias": {},
}


def test_harmless_fields_are_accepted_and_dropped(api: Api, vllm: FakeVllm):
    assert chat(api, **IGNORED).status_code == 200
    assert set(vllm.received[0]) == {"model", "messages"}


def test_every_supported_field_reaches_vllm(api: Api, vllm: FakeVllm):
    body = {
        "frequency_penalty": 0.5,
        "presence_penalty": -1,
        "logit_bias": {"5": -100},
        "n": 2,
        "seed": 7,
        "stop": ["a", "b"],
        "temperature": 1,
        "top_p": 0.5,
        "max_completion_tokens": 9,
        "logprobs": True,
        "top_logprobs": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    }
    assert chat(api, **body).status_code == 200, chat(api, **body).text
    assert vllm.received[0] == body | {"model": "identity-lora", "messages": HELLO}
    plain: dict[str, Any] = {
        "echo": True,
        "max_tokens": 0,
        "stop": "x",
        "prompt": [[1, 2], [3]],
        "best_of": 1,
    }
    assert complete(api, **plain).status_code == 200
    del plain["best_of"]
    assert vllm.received[-1] == plain | {"stop": ["x"], "model": "identity-lora"}


def test_top_p_0_asks_vllm_for_the_likeliest_token_in_a_form_it_accepts(api: Api, vllm: FakeVllm):
    assert chat(api, top_p=0).status_code == 200
    assert complete(api, prompt="x", top_p=0.0).status_code == 200
    assert [0 < body["top_p"] < 0.001 for body in vllm.received] == [True, True]


def test_a_whole_conversation_passes_also_one_with_answers_sent_back(api: Api, vllm: FakeVllm):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "bob"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": [], "audio": None},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "42."},
    ]
    assert chat(api, messages=messages).status_code == 200
    sent = vllm.received[0]["messages"]
    assert sent[0] == messages[0] and sent[1] == messages[1] and sent[3:] == messages[3:]
    assert sent[2] == {"role": "assistant", "tool_calls": [call]}


def test_tokens_are_counted(api: Api):
    def counted() -> float:
        text = api.get("/metrics").text
        lines = [
            line for line in text.splitlines() if line.startswith('rootstock_inference_tokens_total{kind="completion"')
        ]
        return float(lines[0].split()[-1]) if lines else 0.0

    before = counted()
    chat(api)
    chat(api, stream=True)
    assert counted() - before == 6


def test_a_client_that_takes_nothing_any_more_is_hung_up_on(
    api: Api, vllm: FakeVllm, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(presence, "SEND_SECONDS", 0.05)
    vllm.hang = True
    body = json.dumps({"model": "rootstock-tiny", "messages": HELLO, "stream": True}).encode()
    headers = [(b"authorization", f"Bearer {api.key}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    asked = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return asked.pop() if asked else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # its socket is full

    async def call() -> None:
        async with asyncio.timeout(10):
            await api.app(scope, receive, send)
            while vllm.running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    portal.call(call)
