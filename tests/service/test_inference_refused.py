"""What the gateway refuses before vLLM hears of it, and vLLM's own refusals in our words."""

import json
import math
from typing import Any

import openai
import pytest

from tests.service.conftest import Api
from tests.service.fake_vllm import CONTEXT_FULL, FakeVllm, refusal
from tests.service.test_inference import ADAPTER, HELLO, chat, complete, tuned

__all__ = ["tuned"]  # a fixture


@pytest.mark.parametrize(
    "name",
    """chat_template chat_template_kwargs guided_json guided_regex guided_choice guided_grammar structured_outputs
    prompt_embeds documents add_generation_prompt continue_final_message echo top_k min_p ignore_eos min_tokens
    priority request_id cache_salt kv_transfer_params vllm_xargs mm_processor_kwargs media_io_kwargs
    prompt_logprobs stop_token_ids bad_words use_beam_search lora_request foo temprature""".split(),
)
def test_what_is_not_on_the_list_is_refused_by_name(api: Api, vllm: FakeVllm, name: str):
    answer = chat(api, **{name: "x"})
    assert answer.status_code == 400 and vllm.received == []
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", name)


BIG = {str(number): 1 for number in range(100_000)}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "array_below_min_length"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [*HELLO, {"role": "user"}]}, "messages[1]", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "weight": 0}]}, "messages[0].weight", "unknown_parameter"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1"}}]}
                ]
            },
            "messages[0].content",
            "unsupported_value",
        ),
        ({"max_tokens": 10**9}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens", "invalid_type"),
        ({"n": 10**6}, "n", "integer_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"stop": ["x"] * 1000}, "stop", "array_above_max_length"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"logit_bias": BIG}, "logit_bias", "object_above_max_properties"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "decimal_above_max_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
        ({"presence_penalty": -3}, "presence_penalty", "decimal_below_min_value"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_value"),
    ],
)
def test_values_out_of_range_are_refused_before_vllm(api: Api, vllm: FakeVllm, body: Any, param: str, code: str):
    answer = chat(api, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert vllm.received == [] and len(answer.text) < 1000


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["x"] * 200}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"logprobs": 6}, "logprobs"),
        ({"messages": HELLO}, "messages"),
    ],
)
def test_the_same_holds_for_plain_completions(api: Api, vllm: FakeVllm, body: Any, param: str):
    answer = complete(api, **body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param
    assert vllm.received == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(api: Api, vllm: FakeVllm, number: float):
    body = json.dumps({"model": "rootstock-tiny", "messages": HELLO, "temperature": number})
    assert api.post("/v1/chat/completions", content=body).status_code == 400
    assert vllm.received == []


def test_a_question_of_megabytes_arrives_whole(api: Api, vllm: FakeVllm):
    long = "x" * 3_000_000
    assert chat(api, messages=[{"role": "user", "content": long}]).status_code == 200
    assert vllm.received[0]["messages"][0]["content"] == long


def test_a_prompt_over_the_context_is_said_so(api: Api, vllm: FakeVllm, tuned: str):
    vllm.refuse = refusal(400, CONTEXT_FULL, "input_tokens")
    with pytest.raises(openai.BadRequestError) as caught:
        api.client.chat.completions.create(model=tuned, messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert "maximum context length is 512 tokens" in str(caught.value) and "parameter=" not in str(caught.value)
    assert complete(api, model=tuned).json()["error"]["param"] == "prompt"


def test_other_refusals_keep_their_reason_and_lose_our_internals(api: Api, vllm: FakeVllm, tuned: str):
    vllm.refuse = refusal(400, f"max_tokens=900 is too many for {ADAPTER}", "max_tokens")
    error = chat(api, model=tuned, max_tokens=900).json()["error"]
    assert error["param"] == "max_tokens" and ADAPTER not in error["message"]
    vllm.refuse = refusal(400, '"auto" tool choice requires --enable-auto-tool-choice', None)
    error = chat(api, model=tuned).json()["error"]
    assert (error["param"], error["code"]) == ("tool_choice", "unsupported_value") and "--" not in error["message"]


@pytest.mark.parametrize(
    "refuse",
    [
        refusal(404, f"LoRA adapter {ADAPTER} does not exist"),
        refusal(400, f"LoRA adapter '{ADAPTER}' was found but could not be loaded."),
        refusal(401, "Unauthorized"),
        refusal(500, "EngineCore encountered an issue"),
        refusal(503, "starting"),
        (502, {"not": "an error"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_exists_but_cannot_answer_now_is_a_503(
    api: Api, vllm: FakeVllm, tuned: str, refuse: Any, stream: bool
):
    vllm.refuse = refuse
    answer = chat(api, model=tuned, stream=stream)
    assert answer.status_code == 503 and 0 < int(answer.headers["retry-after"]) <= 60
    assert ADAPTER not in answer.text and answer.json()["error"]["type"] == "server_error"
