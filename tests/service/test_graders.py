"""`/v1/fine_tuning/alpha/graders` through the official SDK: real Python processes, the fake vLLM as the judge."""

import json
from typing import Any

import openai
import pytest

from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, refusal

CHECK: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
SCORE: Any = {
    "type": "score_model",
    "name": "taste",
    "model": "gpt-4o-mini",
    "input": [{"role": "user", "content": "Rate {{ sample.output_text }}"}],
    "range": [0, 10],
}
METEOR: Any = {"type": "text_similarity", "name": "m", "input": "a", "reference": "a", "evaluation_metric": "meteor"}
PATH = "/v1/fine_tuning/alpha/graders"


def run(api: Api, grader: Any, sample: str = "42", **more: Any) -> Any:
    return api.client.fine_tuning.alpha.graders.run(grader=grader, model_sample=sample, **more)


def raised(answer: Any) -> set[str]:
    return {name for name, value in answer.metadata.errors.to_dict().items() if value is True}


def test_validate_gives_the_grader_back_as_it_is_read(api: Api):
    answer = api.client.fine_tuning.alpha.graders.validate(grader=CHECK | {"operation": "neq"})
    assert answer.to_dict() == {"grader": CHECK | {"operation": "ne"}}


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (CHECK | {"input": "{{ nothing }}"}, "grader.input"),
        (CHECK | {"operation": "contains"}, "grader.operation"),
        ({"type": "python", "source": "def grade(sample): return 1"}, "grader.source"),
        ({"type": "multi", "graders": {"a": CHECK}, "calculate_output": "a + b"}, "grader.calculate_output"),
        (METEOR, "grader.evaluation_metric"),
        (SCORE | {"type": "label_model"}, "grader.type"),
    ],
)
def test_what_cannot_work_is_refused_by_both(api: Api, grader: Any, param: str):
    for path, more in (("validate", {}), ("run", {"model_sample": "x"})):
        answer = api.post(f"{PATH}/{path}", json={"grader": grader} | more)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_run_grades_one_answer(api: Api):
    answer = run(api, CHECK, item={"answer": "42"})
    assert answer.reward == 1 and answer.metadata.name == "same" and answer.metadata.type == "string_check"
    assert not raised(answer) and answer.metadata.execution_time >= 0 and answer.metadata.token_usage is None
    assert run(api, CHECK, item={"answer": "43"}).reward == 0


def test_the_older_reference_answer_is_part_of_the_item(api: Api):
    grader = CHECK | {"reference": "{{ item.reference_answer.value }}"}
    assert run(api, grader, extra_body={"reference_answer": {"value": "42"}}).reward == 1


def test_a_missing_variable_is_an_answer_with_a_flag(api: Api):
    answer = run(api, CHECK)
    assert answer.reward == 0 and raised(answer) == {"invalid_variable_error"}


def test_multi_shows_its_parts(api: Api):
    python = {"type": "python", "source": "def grade(sample, item):\n    return len(sample['output_text']) / item['n']"}
    grader = {"type": "multi", "graders": {"same": CHECK, "size": python}, "calculate_output": "same + size / 2"}
    answer = run(api, grader, item={"answer": "42", "n": 4})
    assert answer.reward == 1.25 and answer.sub_rewards == {"same": 1, "size": 0.5} == answer.metadata.scores
    assert answer.metadata.name == "multi"


@pytest.mark.parametrize(
    ("body", "reason"), [("return 1 / 0", "ZeroDivisionError"), ("raise ValueError('\\ud800')", "d800")]
)
def test_a_source_that_raises_is_an_answer_with_the_reason(api: Api, body: str, reason: str):
    answer = run(api, {"type": "python", "source": f"def grade(sample, item):\n    {body}"})
    assert raised(answer) == {"python_grader_runtime_error"}
    assert reason in (answer.metadata.errors.python_grader_runtime_error_details or "")


def test_a_judge_is_asked_through_the_gateway(api: Api, vllm: FakeVllm):
    vllm.words = (json.dumps({"steps": [], "result": 7.5}),)
    answer = run(api, SCORE | {"sampling_params": {"temperature": 0, "max_completions_tokens": 50, "seed": 3}})
    assert answer.reward == 7.5 and not raised(answer)
    assert answer.metadata.sampled_model_name == "gpt-4o-mini" and answer.metadata.token_usage == 6
    assert answer.api_model_grader_token_usage_per_model["gpt-4o-mini"]["total_tokens"] == 6  # type: ignore[index]
    [asked] = vllm.received
    assert asked["model"] == "identity-lora" and asked["temperature"] == 0 and asked["seed"] == 3
    assert asked["messages"][0]["content"].startswith("Rate 42")
    assert asked["response_format"]["json_schema"]["schema"]["required"] == ["steps", "result"]


@pytest.mark.parametrize(
    ("setting", "value", "flag"),
    [
        ("words", ("seven",), "model_grader_parse_error"),
        ("refuse", refusal(500, "broken"), "model_grader_server_error"),
        ("refuse", refusal(400, "no such thing"), "model_grader_server_error"),
    ],
)
def test_a_judge_that_fails_is_an_answer_with_a_flag(api: Api, vllm: FakeVllm, setting: str, value: Any, flag: str):
    setattr(vllm, setting, value)
    answer = run(api, SCORE)
    assert answer.reward == 0 and raised(answer) == {flag}


def test_a_judge_of_another_project_does_not_exist(api: Api):
    answer = run(api, SCORE | {"model": "ft:gpt-4o-mini-2024-07-18:rootstock:theirs:abcdefgh"})
    assert raised(answer) == {"model_grader_server_error"}
    assert "does not exist" in (answer.metadata.errors.api_model_grader_server_error_details or "")


def test_a_key_is_needed(api: Api):
    with pytest.raises(openai.AuthenticationError):
        run(api.__class__(**vars(api) | {"client": api.client.with_options(api_key="sk-wrong-key-of-nobody")}), CHECK)
