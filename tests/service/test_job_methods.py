"""`method` by shape: what each one takes, where exactly a fault lies, and what the job shows of it."""

import json
from typing import Any

import openai
import pytest

from tests.service.conftest import Api

AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
CHECK = {"type": "string_check", "name": "same", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
CHECK |= {"operation": "eq"}
SIMILAR = {
    "type": "text_similarity",
    "name": "near",
    "input": "a",
    "reference": "b",
    "evaluation_metric": "fuzzy_match",
}
ASKED = [{"role": "user", "content": "Rate {{sample.output_text}}"}]
SCORE = {"type": "score_model", "name": "judge", "model": "gpt-4o", "input": ASKED}
LABEL = {"type": "label_model", "name": "label", "model": "gpt-4o", "input": ASKED}
LABEL |= {"labels": ["good", "bad"], "passing_labels": ["good"]}
PYTHON = {"type": "python", "source": "def grade(sample, item):\n    return 1.0\n"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}


def multi(graders: Any, formula: str = "a + b") -> dict[str, Any]:
    return {"type": "multi", "name": "all", "graders": graders, "calculate_output": formula}


def dpo(**hyperparameters: Any) -> dict[str, Any]:
    return {"type": "dpo", "dpo": {"hyperparameters": hyperparameters}}


def reinforcement(grader: Any, more: dict[str, Any] | None = None, **hyperparameters: Any) -> dict[str, Any]:
    branch = {"grader": grader, "hyperparameters": hyperparameters} | (more or {})
    return {"type": "reinforcement", "reinforcement": branch}


def create(api: Api, method: Any, **more: Any) -> Any:
    body = {"model": "gpt-4o-mini", "training_file": api.upload(), "method": method}
    return api.post("/v1/fine_tuning/jobs", json=body | more)


def test_a_method_that_the_trainer_cannot_run_is_refused_at_once(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("service.job_wish.TRAINABLE_METHODS", ("supervised", "dpo"))
    error = create(api, reinforcement(CHECK)).json()["error"]
    assert (error["param"], error["code"]) == ("method.type", "unsupported_value")
    assert "'reinforcement'" in error["message"] and "'supervised', 'dpo'" in error["message"]


BRANCH = "method.reinforcement"
NUMBERS = f"{BRANCH}.hyperparameters"


@pytest.mark.parametrize(
    ("method", "param", "code"),
    [
        ({"type": "reinforcement"}, f"{BRANCH}.grader", "missing_required_parameter"),
        (
            {"type": "reinforcement", "reinforcement": {"grader": {}}},
            f"{BRANCH}.grader.type",
            "missing_required_parameter",
        ),
        ({"type": "dpo", "supervised": {"hyperparameters": {"n_epochs": 1}}}, "method.supervised", "invalid_value"),
        (dpo(beta=0), "method.dpo.hyperparameters.beta", "decimal_below_min_value"),
        (dpo(beta=2.1), "method.dpo.hyperparameters.beta", "decimal_above_max_value"),
        (dpo(beta="little"), "method.dpo.hyperparameters.beta", "invalid_value"),
        (dpo(n_epochs=51), "method.dpo.hyperparameters.n_epochs", "integer_above_max_value"),
        (dpo(gamma=1), "method.dpo.hyperparameters.gamma", "unknown_parameter"),
        (reinforcement(CHECK, reasoning_effort="max"), f"{NUMBERS}.reasoning_effort", "invalid_value"),
        (reinforcement(CHECK, compute_multiplier=0.00001), f"{NUMBERS}.compute_multiplier", "decimal_below_min_value"),
        (reinforcement(CHECK, compute_multiplier=11), f"{NUMBERS}.compute_multiplier", "decimal_above_max_value"),
        (reinforcement(CHECK, eval_interval=0), f"{NUMBERS}.eval_interval", "integer_below_min_value"),
        (reinforcement(CHECK, eval_samples=1.5), f"{NUMBERS}.eval_samples", "invalid_value"),
        (reinforcement(CHECK, beta=1), f"{NUMBERS}.beta", "unknown_parameter"),
        (reinforcement("x"), f"{BRANCH}.grader", "invalid_type"),
        (reinforcement({"name": "x"}), f"{BRANCH}.grader.type", "missing_required_parameter"),
        (reinforcement({"type": "magic"}), f"{BRANCH}.grader.type", "invalid_value"),
        (reinforcement({"type": 1}), f"{BRANCH}.grader.type", "invalid_value"),
        (reinforcement(LABEL), f"{BRANCH}.grader.type", "invalid_value"),
        (reinforcement(CHECK | {"operation": "about"}), f"{BRANCH}.grader.operation", "invalid_value"),
        (reinforcement(CHECK | {"input": 1}), f"{BRANCH}.grader.input", "invalid_type"),
        (reinforcement(CHECK | {"x": 1}), f"{BRANCH}.grader.x", "unknown_parameter"),
        (
            reinforcement(SIMILAR | {"evaluation_metric": "cosine"}),
            f"{BRANCH}.grader.evaluation_metric",
            "invalid_value",
        ),
        (reinforcement(SCORE | {"range": [1, 0]}), f"{BRANCH}.grader.range", "invalid_value"),
        (reinforcement(SCORE | {"range": [1]}), f"{BRANCH}.grader.range", "array_below_min_length"),
        (reinforcement(SCORE | {"input": [{"role": "x", "content": ""}]}), f"{BRANCH}.grader.input[0].role", None),
        (reinforcement(SCORE | {"input": [{"role": "user", "content": 1}]}), f"{BRANCH}.grader.input[0].content", None),
        (
            reinforcement(SCORE | {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
            f"{BRANCH}.grader.input[0].content[0].text",
            "missing_required_parameter",
        ),
        (reinforcement(SCORE | {"sampling_params": {"top_p": 2}}), f"{BRANCH}.grader.sampling_params.top_p", None),
        (reinforcement(SCORE | {"model": "gpt-9"}), f"{BRANCH}.grader.model", "model_not_found"),
        (reinforcement(multi({"a": LABEL | {"model": "ft:x"}}, "a")), f"{BRANCH}.grader.graders.a.model", None),
        (reinforcement(CHECK | {"input": "{{ sample.x"}), f"{BRANCH}.grader.input", "invalid_value"),
        (reinforcement({"type": "python"}), f"{BRANCH}.grader.source", "missing_required_parameter"),
        (reinforcement(PYTHON | {"source": "x" * 300_000}), f"{BRANCH}.grader.source", "string_above_max_length"),
        (reinforcement(multi({})), f"{BRANCH}.grader.graders", None),
        (reinforcement(multi("x")), f"{BRANCH}.grader.graders", "invalid_type"),
        (reinforcement(multi({"a": {"type": "multi"}})), f"{BRANCH}.grader.graders.a.type", "invalid_value"),
        (reinforcement(multi({"a": CHECK | {"name": ""}})), f"{BRANCH}.grader.graders.a.name", None),
        (reinforcement(multi([CHECK, {"type": "python"}])), f"{BRANCH}.grader.graders[1].source", None),
        (reinforcement(multi([CHECK, CHECK])), f"{BRANCH}.grader.graders", "invalid_value"),
        (
            reinforcement(multi({"a": LABEL | {"passing_labels": ["fine"]}})),
            f"{BRANCH}.grader.graders.a.passing_labels",
            "invalid_value",
        ),
        (
            reinforcement(CHECK, {"response_format": {"type": "text"}}),
            f"{BRANCH}.response_format.type",
            "invalid_value",
        ),
        (
            reinforcement(CHECK, {"response_format": {"type": "json_schema"}}),
            f"{BRANCH}.response_format.json_schema",
            "missing_required_parameter",
        ),
    ],
)
def test_a_fault_in_the_shape_is_named_by_its_path(api: Api, method: Any, param: str, code: str | None):
    answer = create(api, method)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert code is None or error["code"] == code


def test_a_preference_job_shows_its_numbers_in_both_places(api: Api):
    job = api.job(method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 2.0}}})
    assert job.method.dpo.hyperparameters.beta == 0.1 and job.method.supervised is None
    assert job.hyperparameters.model_dump() == AUTO | {"n_epochs": 2}
    assert job.method.model_dump(exclude_none=True)["dpo"]["hyperparameters"] == AUTO | {"n_epochs": 2, "beta": 0.1}
    bare = api.job(method={"type": "dpo"}, hyperparameters={"n_epochs": 3})
    assert bare.method.dpo.hyperparameters.n_epochs == bare.hyperparameters.n_epochs == 3


PREFERENCE = {
    "input": {"messages": [{"role": "user", "content": "Hi"}]},
    "preferred_completion": [{"role": "assistant", "content": "Hello"}],
    "non_preferred_completion": [{"role": "assistant", "content": "What?"}],
}


def upload(api: Api, example: dict[str, Any]) -> str:
    content = (json.dumps(example) + "\n").encode() * 10
    return api.client.files.create(file=("pairs.jsonl", content), purpose="fine-tune").id


def test_a_preference_file_passes_and_awaits_a_trainer(api: Api):
    job = api.job(training_file=upload(api, PREFERENCE), method={"type": "dpo"})
    assert api.client.fine_tuning.jobs.retrieve(job.id).status == "queued"


@pytest.mark.parametrize(
    ("given", "form", "wanted"),
    [("dpo", "fine-tune-chat", "supervised"), ("supervised", "fine-tune-preference", "dpo")],
)
def test_a_file_for_another_method_fails_the_job(api: Api, given: str, form: str, wanted: str):
    file_id = upload(api, PREFERENCE) if given == "supervised" else api.upload()
    job = api.client.fine_tuning.jobs.retrieve(api.job(training_file=file_id, method={"type": given}).id)
    assert job.status == "failed" and job.error
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert job.error.message == (
        f"The job failed due to an invalid training file. Invalid file format. Input file {file_id} is in the {form} "
        f"format, but the specified fine-tuning job is not using '{wanted}' as the training method (provided "
        f"method={given})."
    )


def test_a_fault_in_a_preference_is_named_by_its_line(api: Api):
    job = api.job(training_file=upload(api, PREFERENCE | {"input": {"messages": []}}), method={"type": "dpo"})
    error = api.client.fine_tuning.jobs.retrieve(job.id).error
    assert error and error.message and "Example 1, 'input.messages' must be an array of at least one" in error.message


GRADERS = {
    "check": CHECK,
    "neq": CHECK | {"operation": "neq"},
    "similar": SIMILAR | {"pass_threshold": 0.8},
    "score": SCORE | {"range": [0, 10], "sampling_params": {"seed": 1, "temperature": 0, "max_completions_tokens": 9}},
    "parts": SCORE | {"input": [{"role": "user", "type": "message", "content": [{"type": "input_text", "text": "a"}]}]},
    "part": SCORE | {"input": [{"role": "user", "content": {"type": "output_text", "text": "a"}}]},
    "python": PYTHON,
    "map": multi({"a": CHECK, "string_check": LABEL}, "a + string_check"),
    "list": multi([CHECK, PYTHON], "same / 2 + python"),
}


@pytest.mark.parametrize("grader", GRADERS.values(), ids=list(GRADERS))
def test_a_reinforcement_job_echoes_its_grader_and_always_has_hyperparameters(api: Api, grader: dict[str, Any]):
    made = create(api, reinforcement(grader, {"response_format": FORMAT}, eval_samples=2))
    assert made.status_code == 200, made.text
    assert api.client.fine_tuning.jobs.retrieve(made.json()["id"]).hyperparameters.n_epochs == "auto"
    assert made.json()["hyperparameters"] == AUTO
    branch = made.json()["method"]["reinforcement"]
    expected = grader | ({"operation": "ne"} if grader.get("operation") == "neq" else {})
    assert _without_defaults(branch["grader"], expected)
    assert branch["response_format"] == FORMAT
    assert branch["hyperparameters"] == AUTO | {
        "reasoning_effort": "default",
        "compute_multiplier": "auto",
        "eval_interval": "auto",
        "eval_samples": 2,
    }


def _without_defaults(shown: Any, asked: Any) -> bool:
    """Equal, but for a name that the guides leave out."""
    if isinstance(asked, dict):
        return set(shown) - set(asked) <= {"name"} and all(_without_defaults(shown[key], asked[key]) for key in asked)
    if isinstance(asked, list):
        return len(shown) == len(asked) and all(map(_without_defaults, shown, asked))
    return bool(shown == asked)


@pytest.mark.parametrize("placed", [{}, {"method": {"type": "supervised"}}])
@pytest.mark.parametrize(
    "sent",
    [
        {"n_epochs": 3},  # openai api fine_tuning.jobs.create -H
        {"n_epochs": 3, "batch_size": 1.0, "learning_rate_multiplier": 2},  # instructor
        {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"},
        {"n_epochs": None},
        {},  # litellm, DSPy, DataDreamer
        None,
    ],
)
def test_deprecated_hyperparameters_are_taken_as_each_client_sends_them(api: Api, sent: Any, placed: Any):
    body = {"model": "gpt-4o-mini", "training_file": api.upload(), "hyperparameters": sent}
    job = api.post("/v1/fine_tuning/jobs", json=body | placed).json()
    wanted = AUTO | {key: value for key, value in (sent or {}).items() if value is not None}
    assert job["hyperparameters"] == job["method"]["supervised"]["hyperparameters"] == wanted


def test_hyperparameters_in_both_places_must_agree(api: Api):
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    assert create(api, method, hyperparameters={"n_epochs": 3.0}).status_code == 200
    with pytest.raises(openai.BadRequestError) as caught:
        api.job(method=method, hyperparameters={"n_epochs": 4})
    assert caught.value.param == "hyperparameters"
