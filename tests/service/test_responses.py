"""`/v1/responses` through the official SDK, whole and streamed, and what is refused; `/v1/embeddings`, which is."""

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from service.responding import Responding, whole
from service.wire_responses import ResponsesRequest
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, refusal

TOOL: Any = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}


def test_a_question_is_answered_as_a_response(api: Api, vllm: FakeVllm):
    answer = api.client.responses.create(model="gpt-4o-mini", input="Hi", instructions="Be kind.", max_output_tokens=9)
    assert answer.output_text == "Hello wörld" and answer.status == "completed"
    assert (
        answer.usage is not None and answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    )
    assert answer.to_dict()["store"] is False
    TypeAdapter(type(answer)).validate_python(answer.to_dict())
    (body,) = vllm.received
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    assert body["max_completion_tokens"] == 9


def test_a_stream_ends_in_the_response(api: Api):
    with api.client.responses.stream(model="gpt-4o-mini", input="Hi") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "Hello wörld"
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello wörld"


def test_a_conversation_with_calls_reaches_the_model_as_one(api: Api, vllm: FakeVllm):
    api.client.responses.create(
        model="gpt-4o-mini",
        input=[
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Where"}, {"type": "input_text", "text": "is it?"}],
            },
            {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}", "id": "fc_1"},
            {"type": "function_call", "call_id": "c2", "name": "look_up", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "Köln"},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "name": "look_up"},
    )
    (body,) = vllm.received
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool"]
    assert body["messages"][0]["content"] == "Where\nis it?"
    assert [call["id"] for call in body["messages"][1]["tool_calls"]] == ["c1", "c2"]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look_up"}}
    assert body["tools"][0]["function"]["name"] == "look_up"


def test_a_schema_is_held_to(api: Api, vllm: FakeVllm):
    class Ticket(BaseModel):
        category: str

    vllm.words = ('{"category": ', '"billing"}')
    parsed = api.client.responses.parse(model="gpt-4o-mini", input="Which?", text_format=Ticket)
    assert parsed.output_parsed == Ticket(category="billing")
    form = vllm.received[0]["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["schema"]["required"] == ["category"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, None),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"role": "user"}]}, "input"),
        ({"input": []}, "input"),
        ({"wishes": 3}, "wishes"),
    ],
)
def test_what_needs_memory_or_other_media_is_refused_by_name(api: Api, more: dict[str, Any], param: str | None):
    answer = api.post("/v1/responses", json={"model": "gpt-4o-mini", "input": "Hi"} | more)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"] or "").startswith(param or "")


def test_nothing_is_stored(api: Api):
    made = api.client.responses.create(model="gpt-4o-mini", input="Hi", store=True)
    for ask in (api.client.responses.retrieve, api.client.responses.delete):
        with pytest.raises(openai.NotFoundError, match="not stored"):
            ask(made.id)


def test_a_stream_that_breaks_off_fails_in_words(api: Api, vllm: FakeVllm):
    vllm.error_after = 1
    text = api.post("/v1/responses", json={"model": "gpt-4o-mini", "input": "Hi", "stream": True}).text
    last = json.loads(text.strip().rsplit("data: ", 1)[1])
    assert last["type"] == "response.failed" and last["response"]["error"]["code"] == "server_error"
    assert "[DONE]" not in text


def test_errors_are_those_of_chat(api: Api, vllm: FakeVllm):
    with pytest.raises(openai.NotFoundError):
        api.client.responses.create(model="nobody", input="Hi")
    vllm.refuse = refusal(400, "maximum context length is 8 tokens")
    with pytest.raises(openai.BadRequestError) as caught:
        api.client.responses.create(model="gpt-4o-mini", input="Hi")
    assert caught.value.code == "context_length_exceeded" and caught.value.param in ("input", "messages")


def test_embeddings_are_refused_cleanly(api: Api, vllm: FakeVllm):
    with pytest.raises(openai.BadRequestError) as caught:
        api.client.embeddings.create(model="gpt-4o-mini", input="Hi")
    assert (caught.value.code, caught.value.param) == ("unsupported_model", "model")
    with pytest.raises(openai.NotFoundError):
        api.client.embeddings.create(model="nobody", input="Hi")
    assert vllm.received == []


WISH = ResponsesRequest.model_validate({"model": "m", "input": "Hi"})
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def _stable(response: dict[str, Any]) -> dict[str, Any]:
    """Without ids, which are made anew each time."""
    items = [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]
    return response | {"id": "", "output": items}


@given(
    texts=st.lists(st.text(min_size=1), max_size=5),
    calls=st.lists(st.lists(st.text(min_size=1), min_size=1, max_size=3), max_size=3),
    reason=st.sampled_from(["stop", "length", "tool_calls"]),
)
def test_any_split_of_a_stream_ends_in_the_whole_answer(texts: list[str], calls: list[list[str]], reason: str):
    streamed = Responding(WISH, "m", 1.0)
    events = streamed.begin()
    pieces: list[dict[str, Any]] = [{"content": text} for text in texts]
    for number, arguments in enumerate(calls):
        for place, piece in enumerate(arguments):
            call: dict[str, Any] = {"index": number, "function": {"arguments": piece}}
            if place == 0:
                call |= {"id": f"call_{number}"}
                call["function"]["name"] = "f"
            pieces.append({"tool_calls": [call]})
    for delta in [*pieces, {}]:
        last = reason if not delta else None
        events += streamed.chunk({"choices": [{"delta": delta, "finish_reason": last}]})
    events += streamed.end(USAGE)
    made = [
        {"id": f"call_{number}", "function": {"name": "f", "arguments": "".join(arguments)}}
        for number, arguments in enumerate(calls)
    ]
    message = {"content": "".join(texts) or None, "tool_calls": made}
    answer = {"model": "m", "choices": [{"message": message, "finish_reason": reason}], "usage": USAGE}
    assert _stable(events[-1]["response"]) == _stable(whole(answer, WISH, 1.0))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["status"] == ("incomplete" if reason == "length" else "completed")
