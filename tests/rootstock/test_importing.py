"""From answers to requests: recipes and evals. Pure functions; the whole import is in tests/service/test_import*.py."""

from typing import Any

import pytest

from rootstock.importing.recipes import eval_request, recipe


def job(**more: Any) -> dict[str, Any]:
    return {"id": "ftjob-1", "model": "gpt-4o", "status": "succeeded"} | more


def method(**more: Any) -> Any:
    return recipe(job(**more), "file-new", None)[0]["method"]


def test_what_the_job_did_not_say_is_left_out():
    body, remarks = recipe(job(seed=None, user_provided_suffix=None, metadata=None), "file-new", None)
    assert body == {
        "model": "gpt-4o",
        "training_file": "file-new",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {}}},
        "metadata": {"imported_from": "ftjob-1"},
    }
    assert remarks == []


def test_hyperparameters_of_jobs_older_than_methods():
    assert method(hyperparameters={"n_epochs": 4}) == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 4}},
    }


def test_preference_and_reinforcement_methods_keep_what_is_theirs():
    numbers = {"n_epochs": 2, "beta": 0.1, "batch_size": None}
    # For these the live service leaves the old field null.
    given = {"type": "dpo", "dpo": {"hyperparameters": numbers}, "supervised": None}
    assert method(method=given, hyperparameters=None) == {
        "type": "dpo",
        "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.1}},
    }
    branch = {"grader": {"type": "python"}, "response_format": None, "hyperparameters": {"eval_interval": 5}}
    assert method(method={"type": "reinforcement", "reinforcement": branch}) == {
        "type": "reinforcement",
        "reinforcement": {"grader": {"type": "python"}, "hyperparameters": {"eval_interval": 5}},
    }


def test_a_job_on_a_tuned_model_starts_from_its_base_and_says_so():
    body, (remark,) = recipe(job(model="ft:gpt-4o-mini-2024-07-18:acme:x:abc"), "file-new", None)
    assert body["model"] == "gpt-4o-mini-2024-07-18"
    assert "ft:gpt-4o-mini-2024-07-18:acme:x:abc" in remark


def test_what_is_left_out_is_remarked():
    integrations = [{"type": "wandb", "wandb": {"project": "p"}}]
    full = {str(number): "x" for number in range(16)}
    given = job(validation_file="file-old", integrations=integrations, metadata=full)
    body, remarks = recipe(given, "file-new", None)
    assert "validation_file" not in body and "integrations" not in body and body["metadata"] == full
    assert [word in remark for word, remark in zip(("file-old", "full", "wandb"), remarks, strict=True)] == [True] * 3


@pytest.mark.parametrize("with_sample", [True, False])
def test_evals_are_turned_back_into_requests(with_sample: bool):
    item = {"type": "object", "properties": {"q": {"type": "string"}}}
    properties = {"item": item} | ({"sample": {"type": "object"}} if with_sample else {})
    given = {
        "id": "eval_1",
        "name": "Sums",
        "data_source_config": {"type": "custom", "schema": {"type": "object", "properties": properties}},
        "testing_criteria": [{"id": "g-1", "name": "g", "type": "python", "pass_threshold": None, "source": "…"}],
        "metadata": {"team": "mail"},
    }
    assert eval_request(given)[0] == {
        "name": "Sums",
        "data_source_config": {"type": "custom", "item_schema": item, "include_sample_schema": with_sample},
        "testing_criteria": [{"name": "g", "type": "python", "source": "…"}],
        "metadata": {"team": "mail", "imported_from": "eval_1"},
    }


def test_evals_on_logs_keep_their_filter():
    config = {"type": "logs", "metadata": {"use": "x"}, "schema": {"type": "object"}}
    body, _ = eval_request({"id": "eval_1", "name": None, "data_source_config": config, "testing_criteria": []})
    assert body["data_source_config"] == {"type": "logs", "metadata": {"use": "x"}} and "name" not in body
