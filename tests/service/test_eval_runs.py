"""Runs of evals through the official SDK, with the worker's own code on the fake vLLM. No sockets, no processes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.types.evals.runs import OutputItemListResponse
from pydantic import TypeAdapter

from rootstock import tables
from service.batching.life import Workplace
from service.evaluating.life import take
from service.replicas import Upstream
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, refusal
from tests.service.network import Network
from tests.service.test_evals import JUDGED, MODEL, SAME, an_eval, asking, content, evals_file

Work = Callable[..., bool]
ANSWER = "Hello wörld"  # what the fake says
RIGHT, WRONG = {"item": {"country": "a", "answer": ANSWER}}, {"item": {"country": "b", "answer": "Rome"}}


@pytest.fixture
def work(api: Api, vllm: FakeVllm, network: Network) -> Work:
    """One claim of a worker, lived to where it gets; false when there was none."""

    def once(**more: Any) -> bool:
        async def do() -> bool:
            upstream = Upstream(api.settings, network.to(vllm))
            place: dict[str, Any] = {"leaving": lambda: False, "first_wait_seconds": 0.001} | more
            settings = place.pop("settings", api.settings)
            workplace = Workplace(settings, api.database, api.app.state.parts.store, upstream, **place)
            worked = await take(workplace, "test")
            await upstream.aclose()
            return worked

        return asyncio.run(do())

    return once


def finished(api: Api, work: Work, source: Any, **eval_more: Any) -> tuple[Any, list[Any]]:
    """A run lived by a worker, and its items."""
    made = an_eval(api, **eval_more)
    run = api.client.evals.runs.create(made.id, data_source=source)
    assert work()
    raw = api.get(f"/v1/evals/{made.id}/runs/{run.id}").json()
    return raw, list(api.client.evals.runs.output_items.list(run.id, eval_id=made.id))


def python(source: str, **more: Any) -> Any:
    return {"type": "python", "name": "py", "source": source} | more


def test_items_are_sampled_graded_and_counted(api: Api, vllm: FakeVllm, work: Work) -> None:
    source = asking(content([RIGHT, WRONG]), sampling_params={"temperature": 0, "seed": 7, "max_completion_tokens": 5})
    run, items = finished(api, work, source)
    assert run["status"] == "completed"
    assert run["result_counts"] == {"total": 2, "errored": 0, "failed": 1, "passed": 1}
    tokens = {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16, "cached_tokens": 0}
    assert run["per_model_usage"] == [{"model_name": MODEL, "invocation_count": 2} | tokens]
    (criterion,) = run["per_testing_criteria_results"]
    assert (criterion["passed"], criterion["failed"], criterion["errored"]) == (1, 1, 0)

    asked = vllm.received[0]
    assert (asked["temperature"], asked["seed"], asked["max_completion_tokens"], asked["top_p"]) == (0, 7, 5, 1)
    assert {one["messages"][1]["content"] for one in vllm.received} == {"Capital of a?", "Capital of b?"}
    by_number = {item.datasource_item_id: item for item in items}
    right = by_number[1]
    assert right.status == "pass" and right.datasource_item == RIGHT["item"]
    result = right.results[0]
    assert (result.name, result.type, result.score, result.passed) == (
        criterion["testing_criteria"],
        "string_check",
        1.0,
        True,
    )
    assert [message.to_dict() for message in right.sample.input] == [
        {"role": "system", "content": "One word."},
        {"role": "user", "content": "Capital of a?"},
    ]
    assert right.sample.output[0].content == ANSWER and right.sample.model == MODEL
    assert (right.sample.temperature, right.sample.seed, right.sample.max_completion_tokens) == (0, 7, 5)
    assert right.sample.usage.total_tokens == 8


def test_an_output_item_is_what_the_sdk_says_it_is(api: Api, work: Work) -> None:
    run, items = finished(api, work, asking(content([RIGHT, WRONG])), testing_criteria=[SAME, JUDGED])
    page = api.get(f"/v1/evals/{run['eval_id']}/runs/{run['id']}/output_items").json()
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    OutputItemListResponse.model_rebuild()
    for raw in page["data"]:
        assert raw["sample"].pop("error") is None
        whole = raw | {"sample": raw["sample"] | {"error": {"code": "", "message": ""}}}
        TypeAdapter(OutputItemListResponse).validate_json(json.dumps(whole), strict=True)
    one = api.client.evals.runs.output_items.retrieve(items[0].id, eval_id=run["eval_id"], run_id=run["id"])
    assert one.id == items[0].id
    with pytest.raises(openai.NotFoundError):
        api.other.evals.runs.output_items.retrieve(items[0].id, eval_id=run["eval_id"], run_id=run["id"])


def test_items_are_listed_by_what_became_of_them(api: Api, work: Work) -> None:
    run, items = finished(api, work, asking(content([RIGHT, WRONG, WRONG])))
    at: Any = {"eval_id": run["eval_id"], "limit": 1}
    listing = api.client.evals.runs.output_items.list
    assert {item.datasource_item_id for item in listing(run["id"], status="pass", **at)} == {1}
    failed = [item.id for item in listing(run["id"], status="fail", **at)]
    assert len(failed) == 2
    assert [item.id for item in listing(run["id"], status="failed", order="desc", **at)] == failed[::-1]
    assert [item.id for item in listing(run["id"], order="desc", **at)] == [item.id for item in items][::-1]


def test_given_answers_are_graded_without_asking_anybody(api: Api, vllm: FakeVllm, work: Work) -> None:
    said = {"model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}]}
    said["choices"][0]["message"]["content"] = "Rome"  # type: ignore[index]
    rows = [WRONG | {"sample": {"output_text": "Rome"}}, WRONG | {"sample": said}, WRONG | {"sample": None}]
    source: Any = {"type": "jsonl", "source": content(rows)}
    run, items = finished(api, work, source)
    assert not vllm.received
    assert {item.datasource_item_id: item.status for item in items} == {1: "pass", 2: "pass", 3: "error"}
    assert run["result_counts"] == {"total": 3, "errored": 1, "failed": 0, "passed": 2}
    assert (run["per_model_usage"], run["model"], run["name"]) == ([], "", "capitals")
    lacking = next(item for item in items if item.status == "error")
    assert lacking.results[0].sample["error"]["code"] == "invalid_variable_error"  # type: ignore[index]


def test_a_file_is_read_and_outlives_its_deletion(api: Api, work: Work) -> None:
    file_id = evals_file(api, [RIGHT, WRONG])
    made = an_eval(api)
    run = api.client.evals.runs.create(made.id, data_source=asking({"type": "file_id", "id": file_id}))
    api.client.files.delete(file_id)
    api.app.state.parts.sweep.run_once()
    work()
    found = api.client.evals.runs.retrieve(run.id, eval_id=made.id)
    assert (found.status, found.result_counts.total, found.result_counts.passed) == ("completed", 2, 1)
    with api.database.read() as tx:
        assert (
            tx.scalar(
                tables.files.select().where(tables.files.c.id == file_id).with_only_columns(tables.files.c.purged_at)
            )
            is None
        )
    api.app.state.parts.sweep.run_once()
    with api.database.read() as tx:
        assert (
            tx.scalar(
                tables.files.select().where(tables.files.c.id == file_id).with_only_columns(tables.files.c.purged_at)
            )
            is not None
        )


def store(api: Api, text: str, client: Any = None, **metadata: str) -> str:
    answer = (client or api.client).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], store=True, metadata=metadata
    )
    return str(answer.id)


LOGS: Any = {"type": "logs", "metadata": {"usecase": "push"}}
IS_LONG: Any = python("def grade(sample, item):\n    return len(sample['output_text']) / 11")


def test_stored_completions_are_graded_as_they_were_answered(api: Api, vllm: FakeVllm, work: Work) -> None:
    for number in range(3):
        vllm.answer_id = f"chatcmpl-{number}"
        store(api, f"Q{number}", usecase="push", version=str(number % 2))
    vllm.answer_id = "chatcmpl-other"
    store(api, "Q", client=api.other, usecase="push", version="0")
    vllm.answer_id = "chatcmpl-elsewhere"
    store(api, "Q", usecase="chat", version="0")
    vllm.received.clear()
    source: Any = {"type": "completions", "source": {"type": "stored_completions", "metadata": {"version": "0"}}}
    run, items = finished(api, work, source, data_source_config=LOGS, testing_criteria=[IS_LONG])
    assert not vllm.received and run["status"] == "completed", run
    items.sort(key=lambda item: item.datasource_item_id)
    assert [item.datasource_item["input"] for item in items] == [
        [{"role": "user", "content": "Q0"}],
        [{"role": "user", "content": "Q2"}],
    ]
    assert all(item.status == "pass" and item.sample.output[0].content == ANSWER for item in items)
    assert items[0].sample.input[0].content == "Q0"


def test_stored_completions_are_asked_again_with_another_model(api: Api, vllm: FakeVllm, work: Work) -> None:
    store(api, "Q", usecase="push")
    vllm.received.clear()
    vllm.words = ("short",)
    source: Any = {
        "type": "completions",
        "model": MODEL,
        "input_messages": {"type": "item_reference", "item_reference": "item.input"},
        "source": {
            "type": "stored_completions",
            "created_after": 0,
            "created_before": 2**40,
            "model": MODEL,
            "limit": 5,
        },
    }
    _, items = finished(api, work, source, data_source_config=LOGS, testing_criteria=[IS_LONG])
    assert [one["messages"] for one in vllm.received] == [[{"role": "user", "content": "Q"}]]
    assert [(item.status, item.results[0].score) for item in items] == [("fail", pytest.approx(5 / 11))]


@pytest.mark.parametrize("more", [{"created_after": 2**40}, {"created_before": 1}, {"model": "other"}])
def test_a_run_without_items_fails_and_says_so(api: Api, work: Work, more: Any) -> None:
    store(api, "Q", usecase="push")
    source: Any = {"type": "completions", "source": {"type": "stored_completions"} | more}
    run, items = finished(api, work, source, data_source_config=LOGS, testing_criteria=[IS_LONG])
    assert run["status"] == "failed" and items == []
    assert run["error"]["code"] == "invalid_data_source" and "no items" in run["error"]["message"]


def test_the_words_of_the_responses_api_ask_the_same(api: Api, vllm: FakeVllm, work: Work) -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    source: Any = asking(content([RIGHT]), sampling_params={"text": {"format": form}, "tools": [tool]})
    finished(api, work, source | {"type": "responses"})
    chat = asking(
        content([RIGHT]),
        sampling_params={
            "response_format": {"type": "json_schema", "json_schema": {k: form[k] for k in form if k != "type"}},
            "tools": [{"type": "function", "function": {k: tool[k] for k in tool if k != "type"}}],
        },
    )
    finished(api, work, chat)
    first, second = vllm.received
    assert first == second
    assert first["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert first["tools"][0]["function"]["name"] == "look"


def verdict(result: Any) -> tuple[str, ...]:
    return (json.dumps({"steps": [], "result": result}),)


def test_models_judge_and_their_usage_counts(api: Api, vllm: FakeVllm, work: Work) -> None:
    vllm.words = verdict("good")
    scored = {"type": "score_model", "name": "s", "model": MODEL, "range": [0, 10], "input": JUDGED["input"]}
    source: Any = {"type": "jsonl", "source": content([WRONG | {"sample": {"output_text": "hey"}}])}
    run, (item,) = finished(api, work, source, testing_criteria=[JUDGED, scored])
    label, score = item.results
    assert (label.passed, label.score, score.passed) == (True, 1.0, False)
    assert label.sample["output"][0]["content"] == vllm.words[0]  # type: ignore[index]
    assert score.sample["error"]["code"] == "model_grader_parse_error"  # type: ignore[index]
    assert item.status == "error" and run["result_counts"]["errored"] == 1
    assert run["per_model_usage"][0]["invocation_count"] == 2
    counts = {one["testing_criteria"].split("-")[0]: one for one in run["per_testing_criteria_results"]}
    assert (counts["s"]["errored"], counts["s"]["failed"], counts["tone"]["passed"]) == (1, 0, 1)
    rows = api.get("/v1/rootstock/usage?group_by=model").json()["data"]
    assert [(row["model"], row["requests"], row["prompt_tokens"]) for row in rows] == [(MODEL, 2, 10)]


@pytest.mark.parametrize("odd", ["float('nan')", "float('inf')", "-float('inf')", "'0.9'", "True", "None", "1 / 0"])
def test_odd_scores_are_errors_and_never_averages(api: Api, work: Work, odd: str) -> None:
    source: Any = {"type": "jsonl", "source": content([WRONG])}
    grader = python(f"def grade(sample, item):\n    return {odd}", pass_threshold=-1)
    run, (item,) = finished(api, work, source, testing_criteria=[grader])
    assert item.status == "error" and not item.results[0].passed and item.results[0].score == 0
    assert item.results[0].sample["error"]["code"] == "python_grader_runtime_error"  # type: ignore[index]
    assert run["result_counts"] == {"total": 1, "errored": 1, "failed": 0, "passed": 0}
    assert run["status"] == "completed"


@pytest.mark.parametrize(("score", "status"), [("0.49", "fail"), ("0.5", "pass"), ("7", "pass")])
def test_without_a_threshold_the_middle_passes(api: Api, work: Work, score: str, status: str) -> None:
    source: Any = {"type": "jsonl", "source": content([WRONG])}
    _, (item,) = finished(api, work, source, testing_criteria=[python(f"def grade(sample, item):\n    return {score}")])
    assert item.status == status


def test_what_the_model_refuses_costs_its_item_only(api: Api, vllm: FakeVllm, work: Work) -> None:
    vllm.refuse_some = lambda body: refusal(400, "no") if "b?" in body["messages"][1]["content"] else None
    run, items = finished(api, work, asking(content([RIGHT, WRONG])))
    assert run["result_counts"] == {"total": 2, "errored": 1, "failed": 0, "passed": 1}
    broken = next(item for item in items if item.status == "error")
    assert broken.results == [] and broken.sample.error.message
    assert run["per_model_usage"][0]["invocation_count"] == 2


def test_an_item_without_what_the_template_names_is_an_error(api: Api, work: Work) -> None:
    ask = {"type": "template", "template": [{"role": "user", "content": "{{ item.nothing }}"}]}
    run, (item,) = finished(api, work, asking(content([RIGHT]), input_messages=ask))
    assert item.status == "error" and "item.nothing" in item.sample.error.message
    assert run["per_model_usage"] == []
