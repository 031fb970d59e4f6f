"""Evals and their runs on the wire, through the official SDK: what they look like, what is refused. Nothing runs."""

import json
from typing import Any

import openai
import pytest
from openai.types import EvalCreateResponse, EvalListResponse, EvalRetrieveResponse
from openai.types.evals import RunCreateResponse
from pydantic import TypeAdapter

from tests.service.conftest import Api

MODEL = "gpt-4o-mini"
ITEM_SCHEMA = {
    "type": "object",
    "properties": {"country": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["country", "answer"],
}
CUSTOM: Any = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
SAME: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}
JUDGED: Any = {
    "type": "label_model",
    "name": "tone",
    "model": MODEL,
    "input": [{"role": "developer", "content": "Judge."}, {"role": "user", "content": "{{ sample.output_text }}"}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
ITEMS = [{"item": {"country": "France", "answer": "Paris"}}, {"item": {"country": "Italy", "answer": "Rome"}}]
ASK: Any = {
    "type": "template",
    "template": [
        {"role": "system", "content": "One word."},
        {"role": "user", "content": "Capital of {{ item.country }}?"},
    ],
}


def content(items: list[Any] = ITEMS) -> Any:
    return {"type": "file_content", "content": items}


def asking(source: Any = None, **more: Any) -> Any:
    return {"type": "completions", "model": MODEL, "input_messages": ASK, "source": source or content()} | more


def an_eval(api: Api, **more: Any) -> Any:
    given = {"name": "capitals", "data_source_config": CUSTOM, "testing_criteria": [SAME]} | more
    return api.client.evals.create(**given)


def evals_file(api: Api, rows: list[Any] | bytes, purpose: Any = "evals") -> str:
    data = rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
    return api.client.files.create(file=("items.jsonl", data), purpose=purpose).id


def refused(api: Api, path: str, body: Any) -> dict[str, Any]:
    answer = api.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_an_eval_is_what_the_sdk_says_it_is(api: Api) -> None:
    body = {
        "name": "capitals",
        "data_source_config": CUSTOM,
        "testing_criteria": [SAME, JUDGED],
        "metadata": {"team": "geo"},
    }
    answer = api.post("/v1/evals", json=body)
    assert answer.status_code == 201
    raw = answer.json()
    TypeAdapter(EvalCreateResponse).validate_json(answer.content, strict=True)
    assert raw["id"].startswith("eval_") and raw["object"] == "eval" and raw["metadata"] == {"team": "geo"}
    config = raw["data_source_config"]
    assert config["schema"]["properties"]["item"] == ITEM_SCHEMA
    assert config["schema"]["required"] == ["item", "sample"]
    same, tone = raw["testing_criteria"]
    assert same["id"].startswith("same-") and {key: same[key] for key in SAME} == SAME
    assert tone["input"][0] == {
        "type": "message",
        "role": "developer",
        "content": {"type": "input_text", "text": "Judge."},
    }
    again = api.get(f"/v1/evals/{raw['id']}")
    TypeAdapter(EvalRetrieveResponse).validate_json(again.content, strict=True)
    assert again.json() == raw


@pytest.mark.parametrize("kind", ["logs", "stored_completions"])
def test_an_eval_of_stored_completions_knows_item_and_sample(api: Api, kind: str) -> None:
    made = an_eval(api, data_source_config={"type": kind, "metadata": {"usecase": "push"}})
    raw = api.get(f"/v1/evals/{made.id}").json()["data_source_config"]
    assert (raw["type"], raw["metadata"], raw["schema"]["required"]) == (kind, {"usecase": "push"}, ["item", "sample"])


def test_evals_are_renamed_listed_and_deleted(api: Api) -> None:
    made = [an_eval(api, name=f"e{n}", metadata={"n": str(n)}) for n in range(3)]
    api.client.evals.update(made[0].id, name="renamed")
    assert [one.id for one in api.client.evals.list(limit=1)] == [one.id for one in made]
    newest = api.client.evals.list(order="desc", order_by="updated_at", limit=2)
    assert [one.id for one in newest] == [made[0].id, made[2].id, made[1].id]
    TypeAdapter(list[EvalListResponse]).validate_json(json.dumps(api.get("/v1/evals").json()["data"]), strict=True)
    found = api.client.evals.retrieve(made[0].id)
    assert found.name == "renamed" and found.metadata == {"n": "0"}
    assert api.client.evals.update(made[0].id, metadata={}).metadata == {}
    with pytest.raises(openai.NotFoundError):
        api.other.evals.retrieve(made[0].id)
    gone = api.client.evals.delete(made[0].id)
    assert gone.to_dict() == {"object": "eval.deleted", "deleted": True, "eval_id": made[0].id}
    with pytest.raises(openai.NotFoundError):
        api.client.evals.delete(made[0].id)
    assert [one.id for one in api.client.evals.list(after=made[0].id)] == [made[1].id, made[2].id]
    assert list(api.other.evals.list()) == []


def test_an_idempotency_key_makes_one_eval(api: Api) -> None:
    body = {"data_source_config": CUSTOM, "testing_criteria": [SAME]}
    first, second = (api.post("/v1/evals", json=body, headers={"Idempotency-Key": "k"}).json() for _ in range(2))
    assert first["id"] == second["id"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"data_source_config": {"type": "custom"}}, "data_source_config.item_schema"),
        ({"data_source_config": {"type": "custom", "item_schema": {"type": "no"}}}, "data_source_config.item_schema"),
        (
            {"data_source_config": {"type": "custom", "item_schema": {"$ref": "http://127.0.0.1:1/s"}}},
            "data_source_config.item_schema",
        ),
        ({"data_source_config": {"type": "tables"}}, "data_source_config.type"),
        ({"testing_criteria": []}, "testing_criteria"),
        ({"testing_criteria": [SAME | {"input": "{{ item }}"}]}, "testing_criteria[0].input"),
        ({"testing_criteria": [SAME, JUDGED | {"passing_labels": ["x"]}]}, "testing_criteria[1].passing_labels"),
        ({"testing_criteria": [{"type": "python", "name": "p", "source": "x = 1"}]}, "testing_criteria[0].source"),
        (
            {
                "testing_criteria": [
                    {
                        "type": "text_similarity",
                        "name": "t",
                        "input": "a",
                        "reference": "b",
                        "evaluation_metric": "bleu",
                    }
                ]
            },
            "testing_criteria[0].pass_threshold",
        ),
        ({"testing_criteria": [{"type": "multi", "graders": {}, "calculate_output": "1"}]}, "testing_criteria[0].type"),
        ({"nmae": "x"}, "nmae"),
    ],
)
def test_what_cannot_be_an_eval_is_refused_by_its_field(api: Api, change: dict[str, Any], param: str) -> None:
    body = {"data_source_config": CUSTOM, "testing_criteria": [SAME]} | change
    error = refused(api, "/v1/evals", body)
    assert error["param"] == param and error["message"]


def test_a_new_run_is_what_the_sdk_says_it_is(api: Api) -> None:
    made = an_eval(api)
    answer = api.post(f"/v1/evals/{made.id}/runs", json={"data_source": asking(), "metadata": {"v": "1"}})
    assert answer.status_code == 201, answer.text
    raw = answer.json()
    model = RunCreateResponse
    model.model_rebuild()
    error = raw.pop("error")
    assert error is None
    TypeAdapter(model).validate_json(json.dumps(raw | {"error": {"code": "", "message": ""}}), strict=True)
    assert raw["id"].startswith("evalrun_") and raw["eval_id"] == made.id
    assert (raw["status"], raw["model"], raw["name"]) == ("queued", MODEL, MODEL)
    assert raw["result_counts"] == {"total": 0, "errored": 0, "failed": 0, "passed": 0}
    assert raw["per_testing_criteria_results"][0]["testing_criteria"] == made.testing_criteria[0].id  # type: ignore[union-attr]
    assert raw["data_source"]["input_messages"]["template"][1] == {
        "type": "message",
        "role": "user",
        "content": {"type": "input_text", "text": "Capital of {{ item.country }}?"},
    }
    assert raw["report_url"].endswith(f"/v1/evals/{made.id}/runs/{raw['id']}/output_items")
    assert api.bell.rung[-1] == raw["id"]


def test_runs_are_listed_canceled_and_deleted(api: Api) -> None:
    made = an_eval(api)
    runs = [api.client.evals.runs.create(made.id, data_source=asking(), name=f"r{n}") for n in range(3)]
    assert [run.id for run in api.client.evals.runs.list(made.id, limit=1)] == [run.id for run in runs]
    canceled = api.client.evals.runs.cancel(runs[0].id, eval_id=made.id)
    assert canceled.status == "canceled"
    assert api.post(f"/v1/evals/{made.id}/runs/{runs[1].id}").json()["status"] == "canceled"  # as older SDKs do
    assert [run.id for run in api.client.evals.runs.list(made.id, status="queued")] == [runs[2].id]
    assert list(api.client.evals.runs.output_items.list(runs[0].id, eval_id=made.id)) == []
    for other in ("retrieve", "cancel", "delete"):
        with pytest.raises(openai.NotFoundError):
            getattr(api.other.evals.runs, other)(runs[2].id, eval_id=made.id)
    with pytest.raises(openai.NotFoundError):
        api.other.evals.runs.list(made.id)
    gone = api.client.evals.runs.delete(runs[0].id, eval_id=made.id)
    assert gone.to_dict() == {"object": "eval.run.deleted", "deleted": True, "run_id": runs[0].id}
    with pytest.raises(openai.NotFoundError):
        api.client.evals.runs.retrieve(runs[0].id, eval_id=made.id)
    api.client.evals.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        api.client.evals.runs.retrieve(runs[2].id, eval_id=made.id)


def test_older_forms_are_understood(api: Api) -> None:
    made = an_eval(api)
    older = {"type": "completions", "model": MODEL, "input": ASK["template"], "source": content()}
    older["sampling_params"] = {"max_completions_tokens": 7}
    run: Any = api.client.evals.runs.create(made.id, data_source=older)  # type: ignore[arg-type]
    assert run.data_source.input_messages.type == "template"
    assert run.data_source.sampling_params.max_completion_tokens == 7


def test_a_run_that_is_sent_again_by_the_sdk_is_the_same_run(api: Api) -> None:
    path = f"/v1/evals/{an_eval(api).id}/runs"
    first = api.post(path, json={"data_source": asking()}).json()
    again = api.post(path, json={"data_source": asking()}, headers={"x-stainless-retry-count": "1"}).json()
    assert again["id"] == first["id"]
    keyed = [api.post(path, json={"data_source": asking()}, headers={"Idempotency-Key": "r"}).json() for _ in "12"]
    assert keyed[0]["id"] == keyed[1]["id"] != first["id"]


SOURCE = "data_source.source"


@pytest.mark.parametrize(
    ("source", "param"),
    [
        (asking(content([{"item": {"country": "France"}}])), f"{SOURCE}.content[0].item"),
        (asking(content([{"item": {"country": 1, "answer": "x"}}])), f"{SOURCE}.content[0].item.country"),
        (asking(content([])), f"{SOURCE}.content"),
        (asking({"type": "file_id", "id": "file-none"}), f"{SOURCE}.id"),
        (asking({"type": "responses"}), SOURCE),
        (asking({"type": "stored_completions", "limit": 0}), f"{SOURCE}.limit"),
        (asking(model="none"), "data_source.model"),
        (asking(model=None), "data_source"),
        (asking(input_messages=None), "data_source.input_messages"),
        (
            asking(input_messages={"type": "template", "template": [{"role": "user", "content": "{{ sample.x }}"}]}),
            "data_source.input_messages.template[0].content",
        ),
        (
            asking(
                input_messages={
                    "type": "template",
                    "template": [{"role": "user", "content": {"type": "input_image", "image_url": "x"}}],
                }
            ),
            "data_source.input_messages.template[0].content",
        ),
        *(
            (
                asking(input_messages={"type": "item_reference", "item_reference": reference}),
                "data_source.input_messages.item_reference",
            )
            for reference in ("item[", "item.a }} and {{ item.b", "sample.output_text", "item")
        ),
        (asking(sampling_params={"temperature": 9}), "data_source.sampling_params.temperature"),
        (asking(sampling_params={"topp": 1}), "data_source.sampling_params.topp"),
        ({"type": "table"}, "data_source.type"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_field(api: Api, source: dict[str, Any], param: str) -> None:
    error = refused(api, f"/v1/evals/{an_eval(api).id}/runs", {"data_source": source})
    assert error["param"] == param and error["message"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ITEMS[0], {"item": {"country": "Italy"}}], "Line 2"),
        ([{"country": "Italy"}], "'country'"),
        (b"{not json}\n", "Line 1"),
        (b'{"item": {"country": "x", "answer": NaN}}\n', "not JSON"),
        (b"\n\n", "no items"),
    ],
)
def test_a_file_whose_lines_do_not_fit_is_refused_with_the_line(api: Api, rows: Any, said: str) -> None:
    source = {"type": "file_id", "id": evals_file(api, rows)}
    error = refused(api, f"/v1/evals/{an_eval(api).id}/runs", {"data_source": asking(source)})
    assert error["param"] == f"{SOURCE}.id" and said in error["message"]


def test_a_file_of_another_purpose_is_refused(api: Api) -> None:
    source = {"type": "file_id", "id": evals_file(api, ITEMS, purpose="user_data")}
    error = refused(api, f"/v1/evals/{an_eval(api).id}/runs", {"data_source": asking(source)})
    assert "'evals'" in error["message"]


def test_a_judge_that_is_not_there_is_refused(api: Api) -> None:
    made = an_eval(api, testing_criteria=[SAME, JUDGED | {"model": "none"}])
    error = refused(api, f"/v1/evals/{made.id}/runs", {"data_source": asking()})
    assert error["param"] == "testing_criteria[1].model"
