"""Distillations through the official SDK's client, with the worker's own code on the fake vLLM."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import completions, distillations, tables
from service.batching.life import Workplace
from service.distilling.life import take
from service.replicas import Upstream
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, refusal
from tests.service.network import Network

PATH = "/v1/rootstock/distillations"

Work = Callable[..., bool]


@pytest.fixture
def work(vllm: FakeVllm, network: Network) -> Work:
    """One claim of a worker, lived to where it gets; false when there was nothing to do."""

    def once(api: Api, **more: Any) -> bool:
        async def run() -> bool:
            upstream = Upstream(api.settings, network.to(vllm))
            place = {"leaving": lambda: False, "first_wait_seconds": 0.001} | more
            try:
                store = api.app.state.parts.store
                return await take(Workplace(api.settings, api.database, store, upstream, **place), "test")
            finally:
                await upstream.aclose()

        return asyncio.run(run())

    return once


def prompt(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": text}]} | more


def echoing(vllm: FakeVllm, **said: str) -> None:
    """The model answers each question with a text of its own, or with what `said` has for it."""

    def choose(body: dict[str, Any]) -> None:
        asked = body["messages"][-1]["content"]
        vllm.words = (said.get(asked, f"The answer to {asked} is known."),)

    vllm.refuse_some = choose


def create(api: Api, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = api.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def inline(api: Api, texts: list[str], **more: Any) -> dict[str, Any]:
    source = {"type": "prompts", "prompts": [prompt(text) for text in texts]}
    return create(api, **{"source": source, "teacher": {"model": "gpt-4o-mini"}} | more)


def look(api: Api, run: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"{PATH}/{run['id']}").json()
    return found


def lines(api: Api, run: dict[str, Any]) -> list[dict[str, Any]]:
    text = api.client.files.content(run["training_file"]).text
    return [json.loads(line) for line in text.splitlines()]


def answers(api: Api, run: dict[str, Any]) -> dict[str, str]:
    return {line["messages"][-2]["content"]: line["messages"][-1]["content"] for line in lines(api, run)}


def test_prompts_become_a_training_file_that_a_job_takes(api: Api, vllm: FakeVllm, work: Work) -> None:
    echoing(vllm)
    made = inline(api, ["one", "two", "one", *map(str, range(8))], seed=7, suffix="tickets")
    assert (made["status"], made["object"]) == ("in_progress", "rootstock.distillation")
    assert made["counts"] == {"total": 10, "done": 0, "kept": 0, "outcomes": {"repeated_prompt": 1}}
    assert api.bell.rung[-1] == made["id"]
    assert work(api) and not work(api)
    run = look(api, made)
    assert (run["status"], run["counts"]["kept"], run["error"]) == ("completed", 10, None)
    assert run["usage"] == {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    assert answers(api, run)["two"] == "The answer to two is known."
    assert all(body["seed"] == 7 for body in vllm.received)
    file = api.client.files.retrieve(run["training_file"])
    assert (file.purpose, file.filename, file.status, file.status_details) == (
        "fine-tune",
        "tickets.jsonl",
        "processed",
        None,
    )
    job = api.job(training_file=run["training_file"])
    api.app.state.parts.sweep.run_once()
    assert api.client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    (spent,) = api.get("/v1/rootstock/usage", params={"group_by": "none"}).json()["data"]
    assert (spent["requests"], spent["prompt_tokens"], spent["completion_tokens"]) == (10, 50, 10)
    with api.database.read() as tx:
        assert tx.scalar(sa.select(sa.func.count()).select_from(tables.distillation_examples)) == 0


def test_the_sidecar_says_where_the_file_came_from(api: Api, vllm: FakeVllm, work: Work) -> None:
    echoing(vllm)
    made = inline(api, ["a", "b"], seed=3, budget={"max_examples": 2})
    work(api)
    run = look(api, made)
    sidecar = json.loads(api.client.files.content(run["provenance_file"]).text)
    assert sidecar == run["provenance"]
    assert sidecar["teacher"] == {"model": "gpt-4o-mini"} and sidecar["seed"] == 3
    assert sidecar["outcomes"] == {"kept": 2} and sidecar["prompts"] == 2
    assert (sidecar["training_file"], sidecar["distillation"]) == (run["training_file"], run["id"])
    assert len(sidecar["prompts_sha256"]) == 64 and sidecar["tokens"]["prompt_tokens"] == 10


def test_what_is_not_worth_learning_is_left_out_and_counted(api: Api, vllm: FakeVllm, work: Work) -> None:
    def answer(body: dict[str, Any]) -> Any:
        asked = body["messages"][-1]["content"]
        said = {
            "refuse": "I'm sorry, but I can't help with that.",
            "empty": "  ",
            "prose": "Sure: 7",
            "good": '{"n":1}',
        }
        vllm.words = (said.get(asked, '{"n": "seven"}'),)
        return refusal(400, "too long") if asked == "long" else None

    vllm.refuse_some = answer
    form = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }
    made = inline(api, ["refuse", "empty", "prose", "wrong", "long", "good"], response_format=form)
    work(api)
    run = look(api, made)
    assert run["counts"]["outcomes"] == {
        "refusal": 1,
        "empty": 1,
        "invalid_format": 2,
        "teacher_error": 1,
        "kept": 1,
    }
    assert answers(api, run) == {"good": '{"n":1}'}
    assert vllm.received[0]["response_format"]["type"] == "json_schema"


def test_nearly_the_same_twice_is_learnt_once(api: Api, vllm: FakeVllm, work: Work) -> None:
    text = "please sort this ticket about a parcel that never arrived at the house of the customer in the north"
    echoing(vllm, **{text: "delivery", text + " today": "delivery", text + " now": "complaint"})
    both = inline(api, [text, text + " today", text + " now"], filters={"near_duplicates": 0.8})
    work(api)
    assert look(api, both)["counts"]["outcomes"] == {"kept": 2, "near_duplicate": 1}
    kept = inline(api, [text, text + " today"], filters={"near_duplicates": 1.0})
    work(api)
    assert look(api, kept)["counts"]["kept"] == 2


def test_a_grader_sees_the_line_and_draws_the_bar(api: Api, vllm: FakeVllm, work: Work) -> None:
    echoing(vllm, right="4", wrong="5")
    grader = {
        "type": "string_check",
        "name": "same",
        "operation": "eq",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.reference }}",
    }
    prompts = [prompt("right", reference="4"), prompt("wrong", reference="4"), prompt("none")]
    source = {"type": "prompts", "prompts": prompts}
    made = create(api, source=source, teacher={"model": "gpt-4o-mini"}, filters={"grader": {"grader": grader}})
    work(api)
    run = look(api, made)
    assert run["counts"]["outcomes"] == {"kept": 1, "low_score": 1, "ungraded": 1}
    assert set(answers(api, run)) == {"right"}


def store(api: Api, number: int, said: str, model: str = "gpt-4o", **metadata: str) -> None:
    with api.database.transaction() as tx:
        completions.keep(
            tx,
            "proj_default",
            request_id="req_1",
            request={"model": model, "messages": [{"role": "user", "content": f"question {number}"}]},
            response={
                "id": f"chatcmpl-{number}",
                "model": model,
                "created": 1,
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
            },
            metadata=metadata or None,
        )


def test_stored_completions_are_their_own_teacher(api: Api, vllm: FakeVllm, work: Work) -> None:
    for number in range(150):
        store(api, number, f"answer {number}", task="tickets")
    store(api, 150, "other task", task="mails")
    store(api, 151, "other model", model="gpt-4.1", task="tickets")
    source = {"type": "stored_completions", "model": "gpt-4o", "metadata": {"task": "tickets"}}
    made = create(api, source=source, budget={"max_examples": 120}, seed=1)
    assert made["status"] == "queued" and made["teacher"] is None
    work(api)
    run = look(api, made)
    assert run["counts"] == {"total": 120, "done": 120, "kept": 120, "outcomes": {"not_drawn": 30, "kept": 120}}
    found = {line["messages"][0]["content"] for line in lines(api, run)}
    assert len(found) == 120 and vllm.received == [] and run["usage"]["total_tokens"] == 0
    again = create(api, source=source, budget={"max_examples": 120}, seed=1)
    work(api)
    assert {line["messages"][0]["content"] for line in lines(api, look(api, again))} == found
    old = create(api, source=source | {"created_before": 1000})
    work(api)
    assert look(api, old)["error"]["code"] == "no_examples"


def test_a_file_of_lines_is_asked_again(api: Api, vllm: FakeVllm, work: Work) -> None:
    echoing(vllm)
    rows = [
        json.dumps({"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "old"}]})
        for n in range(3)
    ]
    data = "\n".join([*rows, "no json", json.dumps({"messages": []}), rows[0]]).encode()
    file = api.client.files.create(file=("p.jsonl", data), purpose="user_data")
    made = create(api, source={"type": "file", "file_id": file.id}, teacher={"model": "gpt-4o-mini"})
    api.client.files.delete(file.id)
    api.app.state.parts.sweep.run_once()  # the content stays for as long as it is needed
    work(api)
    run = look(api, made)
    assert run["counts"]["outcomes"] == {"invalid_prompt": 2, "repeated_prompt": 1, "kept": 3}
    assert sorted(line["messages"][-1]["content"] for line in lines(api, run)) == [
        f"The answer to q{n} is known." for n in range(3)
    ]


def test_a_worker_that_leaves_has_nothing_asked_twice(api: Api, vllm: FakeVllm, work: Work) -> None:
    """Five are answered, the others are being asked when the worker has to go."""

    def hang_later(_: dict[str, Any]) -> None:
        vllm.hang = len(vllm.received) > 5

    vllm.refuse_some = hang_later
    made = inline(api, [f"question {n}" for n in range(40)], filters={"near_duplicates": None})
    gone: list[bool] = []  # once it has to go it has to

    def leaving() -> bool:
        if vllm.running > 0 and look(api, made)["counts"]["done"] == 5:
            gone.append(True)
        return bool(gone)

    work(api, leaving=leaving)
    half = look(api, made)
    assert (half["status"], half["counts"]["done"]) == ("in_progress", 5)
    first = [body["messages"][-1]["content"] for body in vllm.received]
    vllm.refuse_some, vllm.hang = lambda _: None, False
    vllm.received.clear()
    work(api)
    assert look(api, made)["counts"]["kept"] == 40
    second = [body["messages"][-1]["content"] for body in vllm.received]
    assert len(second) == 35 and set(first[:5]).isdisjoint(second)


def test_a_dead_workers_run_goes_on_where_its_rows_are(api: Api, vllm: FakeVllm, work: Work) -> None:
    echoing(vllm)
    made = inline(api, ["a", "b"])
    with api.database.transaction() as tx:
        dead = distillations.claim(tx, worker="dead", lease_seconds=-1, max_attempts=3)
    assert dead is not None and work(api)
    assert look(api, made)["status"] == "completed"


def test_a_budget_of_tokens_ends_it_with_what_there_is(api: Api, vllm: FakeVllm, work: Work) -> None:
    echoing(vllm)
    made = inline(api, [f"question {n}" for n in range(300)], budget={"max_tokens": 60})
    work(api)
    run = look(api, made)
    assert (run["status"], run["stopped_by"]) == ("completed", "max_tokens")
    assert run["usage"]["total_tokens"] >= 60 and run["counts"]["outcomes"]["not_asked"] > 0
    assert len(vllm.received) <= 60 / 6 + api.settings.batch_concurrency, "no more than were being asked"
    assert len(lines(api, run)) == run["counts"]["kept"] == run["counts"]["done"]


def test_cancelling_ends_it_at_once(api: Api, vllm: FakeVllm, work: Work) -> None:
    made = inline(api, ["a"])
    assert api.post(f"{PATH}/{made['id']}/cancel").json()["status"] == "cancelled"
    again = api.post(f"{PATH}/{made['id']}/cancel")
    assert again.status_code == 400 and "already 'cancelled'" in again.json()["error"]["message"]
    assert not work(api) and vllm.received == []


def test_lists_and_other_projects(api: Api) -> None:
    ids = [inline(api, [text])["id"] for text in "abc"]
    page = api.get(PATH, params={"limit": 2}).json()
    assert [one["id"] for one in page["data"]] == ids[:0:-1] and page["has_more"]
    rest = api.get(PATH, params={"after": page["last_id"]}).json()
    assert [one["id"] for one in rest["data"]] == ids[:1]
    headers = {"Authorization": f"Bearer {api.other.api_key}"}
    assert api.get(PATH, headers=headers).json()["data"] == []
    for path in (f"{PATH}/{ids[0]}", f"{PATH}/distil_none"):
        answer = api.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "distillation_id")
    assert api.post(f"{PATH}/{ids[0]}/cancel", headers=headers).status_code == 404


def test_the_same_key_makes_one(api: Api) -> None:
    body = {"source": {"type": "prompts", "prompts": [prompt("a")]}, "teacher": {"model": "gpt-4o-mini"}}
    first, second = (api.post(PATH, json=body, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"source": {"type": "prompts", "prompts": [prompt("a")]}}, "teacher"),
        (
            {"source": {"type": "prompts", "prompts": [prompt("a"), {"messages": 3}]}, "teacher": {"model": "gpt-4o"}},
            "source.prompts[1]",
        ),
        ({"source": {"type": "file", "file_id": "file-none"}, "teacher": {"model": "gpt-4o"}}, "source.file_id"),
        ({"source": {"type": "web"}}, "source.type"),
        ({"source": {"type": "stored_completions", "metadate": {}}}, "source.metadate"),
        ({"source": {"type": "stored_completions"}, "teacher": {"model": "nobody"}}, "teacher.model"),
        ({"source": {"type": "stored_completions"}, "teacher": {"model": "gpt-4o", "api_key": "x"}}, "teacher.api_key"),
        (
            {"source": {"type": "stored_completions"}, "teacher": {"model": "m", "base_url": "https://10.0.0.1/v1"}},
            "teacher.base_url",
        ),
        (
            {"source": {"type": "stored_completions"}, "teacher": {"model": "m", "base_url": "http://example.com/v1"}},
            "teacher.base_url",
        ),
        ({"source": {"type": "stored_completions"}, "filters": {"near_duplicates": 0}}, "filters.near_duplicates"),
        ({"source": {"type": "stored_completions"}, "budget": {"max_examples": 50_001}}, "budget.max_examples"),
        ({}, "source"),
    ],
)
def test_what_cannot_be_is_named(api: Api, body: dict[str, Any], param: str) -> None:
    error = create(api, 400, **body)["error"]
    assert error["param"] == param and error["message"]
