"""The gate, from a job's creation to its verdict: what is asked of whom, what is told, held, let out."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from openai import ConflictError, NotFoundError

from rootstock import keys, releases
from rootstock.errors import LeaseLost
from rootstock.quality import splitting
from service.reconciler import UNHEARD_SECONDS
from tests.service.conftest import Api
from tests.service.fake_vllm import FakeVllm, refusal
from tests.service.releasing import LABELS, Measured, Models, label, rows

Make = Callable[..., Measured]


@pytest.fixture
def make(make_api: Callable[..., Api], vllm: FakeVllm, portal: BlockingPortal) -> Make:
    def start(models: Models | None = None, **settings: Any) -> Measured:
        return Measured(make_api(**settings), vllm, portal, models or Models())

    return start


def enforce(gate: Measured) -> None:
    assert gate.api.post("/v1/rootstock/policy", json={"release": {"mode": "enforce"}}).status_code == 200


def ask(gate: Measured, model: str) -> Any:
    return gate.api.client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Ticket 3"}])


def shuffled(n: int) -> str:
    return LABELS[(n * 5 + 1) % 4]


def test_a_real_gain_ships_and_the_job_says_by_how_much(make: Make):
    gate = make(Models(tuned=lambda n: label(n) if n % 12 else "defect"))
    job = gate.finished()
    assert job.status == "succeeded"
    shown = job.rootstock["release"]
    assert (shown["verdict"], shown["reasons"], shown["held"], shown["mode"]) == ("ship", [], False, "inform")
    assert (shown["metric"], shown["examples"]) == ("label_accuracy", 24)
    assert shown["scores"]["zero_shot"]["mean"] == 0.0 and shown["scores"]["tuned"]["mean"] > 0.9
    assert 0 < shown["gain"]["low"] < shown["gain"]["mean"] < shown["gain"]["high"]
    assert {"zero_shot", "few_shot", "constant", "tuned", "checkpoint-4"} == set(shown["scores"])
    assert shown["models"]["tuned"] == job.fine_tuned_model and shown["models"]["checkpoint-4"].endswith("ckpt-step-4")
    assert shown["macro_f1"]["gain"]["low"] > 0
    assert all(suite["after"] is None for suite in shown["suites"]), "the base knew none of it"
    messages = gate.messages(job.id)
    (baseline,) = [told for told in messages if told.startswith("Baseline: label_accuracy")]
    assert "24 held-out examples" in baseline and "with 8 examples in its prompt" in baseline
    (verdict,) = [told for told in messages if told.startswith("Release verdict: ship")]
    assert messages.index(verdict) < messages.index(f"New fine-tuned model created: {job.fine_tuned_model}")
    assert gate.release(job.id)["release"] == shown and gate.release(job.id)["state"] == "done"


def test_the_base_is_asked_while_the_job_waits_and_the_tune_only_once_it_was_proven(make: Make):
    gate = make()
    job = gate.job()
    assert gate.api.bell.rung.count(job.id) == 2, "a trainer's bell and a batch worker's"
    assert gate.work() and not gate.work()
    assert gate.release(job.id)["state"] == "tuned"
    asked = [model for model, question in gate.models.asked if question.startswith("Ticket")]
    assert asked == ["identity-lora"] * (24 + 24 + 1)
    gate.api.finalize(gate.api.claim())
    assert not gate.work()
    gate.reconcile()
    assert gate.look(job.id).status == "running"
    assert gate.work() and not gate.work()
    assert gate.look(job.id).status == "running"
    gate.reconcile()
    assert gate.look(job.id).status == "succeeded"


def test_shuffled_answers_are_held_with_the_reason(make: Make):
    shown = make(Models(tuned=shuffled)).finished().rootstock["release"]
    assert (shown["verdict"], shown["codes"], shown["held"]) == ("hold", ["no_clear_gain"], False)
    assert "always the same answer" in shown["reasons"][0]


def test_a_prompt_that_does_it_holds_the_tune(make: Make):
    shown = make(Models(prompted=label)).finished().rootstock["release"]
    assert (shown["verdict"], shown["compared_with"]) == ("hold", "few_shot")
    assert shown["codes"] == ["prompting_meets_the_bar", "no_clear_gain"]


def test_a_suite_that_is_beyond_the_base_is_left_alone_after_some_questions(make: Make):
    gate = make(Models(base_suites=lambda question: question.answer if question.how == "json" else "no idea"))
    gate.finished()
    asked = [question for model, question in gate.models.asked if not question.startswith("Ticket ")]
    assert len(asked) == len(set(asked)) == 5 * 20 + 60, "only of `formats` it knows more than a quarter of the first"


def test_what_the_base_knew_and_the_tune_forgot_holds_it(make: Make):
    gate = make(
        Models(
            base_suites=lambda question: question.answer if question.how == "exact" else "no idea",
            tuned_suites=lambda question: "delivery",
        )
    )
    shown = gate.finished(seed=7).rootstock["release"]
    assert shown["verdict"] == "hold" and set(shown["codes"]) == {"forgetting"}
    for suite in shown["suites"]:
        known = suite["before"]["mean"] >= 0.5
        assert (suite["after"] is not None) == suite["forgotten"] == known
    asked = len(gate.models.asked)
    again = gate.finished(seed=7)
    assert again.rootstock["release"]["suites"] == shown["suites"]
    before = [question for model, question in gate.models.asked[asked:] if model == "identity-lora"]
    assert all(question.startswith("Ticket") for question in before), "a base is asked for suites once an hour"


@pytest.mark.parametrize("held_out", [0, 9])
def test_too_few_examples_say_what_to_do_and_ask_nobody(make: Make, held_out: int):
    gate = make()
    job = gate.finished(held_out=held_out)
    shown = job.rootstock["release"]
    assert job.status == "succeeded" and shown["verdict"] == "unmeasured" and shown["codes"] == ["too_few_examples"]
    assert "validation_file" in shown["reasons"][0] and shown["gain"] is None
    assert gate.models.asked == []


def test_without_serving_nothing_is_measured(make: Make):
    gate = make(vllm_url=None)
    job = gate.job()
    gate.api.finalize(gate.api.claim())
    gate.reconcile()
    job = gate.look(job.id)
    assert job.status == "succeeded" and job.rootstock["release"]["codes"] == ["no_serving"]


def test_a_job_does_not_wait_for_ever_for_its_verdict(make: Make, monkeypatch: pytest.MonkeyPatch):
    gate = make()
    monkeypatch.setattr("service.reconciler.UNHEARD_SECONDS", -1.0)
    assert UNHEARD_SECONDS > 120, "a turn of a batch must not look like no worker at all"
    job = gate.job()
    gate.api.finalize(gate.api.claim())
    gate.reconcile()
    gate.reconcile()
    shown = gate.look(job.id).rootstock["release"]
    assert shown["codes"] == ["no_worker"] and "batch-worker" in shown["reasons"][0]
    slow = make(measure_seconds=0.001)
    late = slow.job()
    slow.api.finalize(slow.api.claim())
    with slow.api.database.transaction() as tx:
        taken = releases.claim(tx, worker="asleep", lease_seconds=60)
    assert taken is not None and taken.job_id == late.id
    slow.reconcile()
    time.sleep(0.05)
    slow.reconcile()
    assert slow.look(late.id).rootstock["release"]["codes"] == ["too_slow"]
    with slow.api.database.transaction() as tx, pytest.raises(LeaseLost):
        releases.store(tx, taken, [], lease_seconds=60)


def test_an_engine_that_is_away_is_asked_again_later_and_no_answer_twice(make: Make, vllm: FakeVllm):
    gate = make()
    job = gate.job()

    def dies_in_the_middle(_: dict[str, Any]) -> Any:
        return refusal(503, "away") if len(gate.models.asked) >= 16 else None

    vllm.refuse_some = dies_in_the_middle
    assert gate.work()
    assert gate.release(job.id)["state"] == "baseline" and len(gate.models.asked) == 16
    assert not gate.work(), "not at once"
    vllm.refuse_some = lambda _: None
    with gate.api.database.transaction() as tx:
        tx.exec_driver_sql("UPDATE releases SET not_before = 0")
    assert gate.work()
    questions = [question for _, question in gate.models.asked if question.startswith("Ticket")]
    assert len(questions) == 24 + 24 + 1


def test_a_worker_that_died_is_followed_by_one_that_asks_the_rest(make: Make):
    gate = make(lease_seconds=30)
    gate.job()
    with gate.api.database.transaction() as tx:
        dead = releases.claim(tx, worker="dead", lease_seconds=0.0)
        assert dead is not None
        releases.store(tx, dead, [releases.Answer("zero_shot", n, "x", 0.0) for n in range(20)], lease_seconds=0.0)
    assert gate.work()
    asked = [question for _, question in gate.models.asked if question.startswith("Ticket")]
    assert len(asked) == 4 + 24 + 1
    with gate.api.database.transaction() as tx, pytest.raises(LeaseLost):
        releases.store(tx, dead, [], lease_seconds=30)


def test_a_worker_that_is_told_to_leave_hands_back_what_it_has(make: Make):
    gate = make()
    job = gate.job()
    gate.leaving = True
    assert gate.work()
    with gate.api.database.read() as tx:
        release = releases.of_job(tx, job.id)
        kept = releases.answers(tx, job.id)
    assert release is not None and release.lease_owner is None and len(kept["zero_shot"]) == 8


def test_a_fault_of_ours_costs_the_verdict_after_some_tries_and_never_the_job(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    gate = make(max_attempts=2)
    monkeypatch.setattr("service.releasing.measuring.read", lambda *_: 1 / 0)
    job = gate.job()
    claimed = gate.api.claim()
    assert gate.work() and gate.release(job.id)["state"] == "baseline"
    with gate.api.database.transaction() as tx:
        tx.exec_driver_sql("UPDATE releases SET not_before = 0")
    assert gate.work() and gate.release(job.id)["release"]["codes"] == ["server_error"]
    gate.api.finalize(claimed)
    gate.reconcile()
    assert gate.look(job.id).status == "succeeded"


def test_examples_that_do_not_fit_into_the_prompt_are_fewer_and_a_question_that_does_not_is_left_out(
    make: Make, vllm: FakeVllm
):
    def short_context(body: dict[str, Any]) -> Any:
        too_long = len(body["messages"]) > 8 or body["messages"][-1]["content"] == "Ticket 1003"
        return refusal(400, "This model's maximum context length is 512 tokens.") if too_long else None

    vllm.refuse_some = short_context
    gate = make()
    job = gate.finished()
    shown = job.rootstock["release"]
    assert shown["examples"] == 23 and shown["verdict"] == "ship"
    assert any("with 2 examples in its prompt" in told for told in gate.messages(job.id))


def test_a_cancelled_job_is_not_measured_any_more(make: Make):
    gate = make()
    job = gate.job()
    gate.api.client.fine_tuning.jobs.cancel(job.id)
    assert not gate.work() and gate.models.asked == []


def test_enforced_a_held_tune_answers_nobody_until_an_owner_lets_it_out(make: Make):
    gate = make(Models(tuned=shuffled))
    enforce(gate)
    job = gate.finished()
    assert job.status == "succeeded" and job.rootstock["release"]["held"]
    checkpoint = gate.api.client.fine_tuning.jobs.checkpoints.list(job.id).data[-1].fine_tuned_model_checkpoint
    for model in (job.fine_tuned_model, checkpoint):
        with pytest.raises(ConflictError) as refused:
            ask(gate, model)
        assert refused.value.code == "model_held" and f"/v1/rootstock/jobs/{job.id}/release" in refused.value.message
    alias = {"name": "support", "model": job.fine_tuned_model}
    answer = gate.api.post("/v1/rootstock/aliases", json=alias)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_held")

    path = f"/v1/rootstock/jobs/{job.id}/release"
    out = gate.api.post(path, json={"reason": "compared by hand"})
    assert out.status_code == 200 and not out.json()["release"]["held"]
    (kept,) = out.json()["overrides"]
    assert (kept["released"], kept["reason"]) == (True, "compared by hand") and kept["key_id"]
    assert ask(gate, job.fine_tuned_model).model == job.fine_tuned_model
    assert not gate.look(job.id).rootstock["release"]["held"]
    assert "Released by an owner of the project: compared by hand" in gate.messages(job.id)
    assert gate.api.post(path, json={}).json()["overrides"] == [kept], "again changes nothing"

    assert gate.api.post("/v1/rootstock/aliases", json=alias).status_code == 200
    back = gate.api.post(path, json={"released": False})
    assert (back.status_code, back.json()["error"]["code"]) == (409, "model_in_use")
    gate.api.http.delete("/v1/rootstock/aliases/support")
    assert len(gate.api.post(path, json={"released": False}).json()["overrides"]) == 2
    with pytest.raises(ConflictError):
        ask(gate, job.fine_tuned_model)


def test_in_a_batch_a_held_model_is_named(make: Make):
    gate = make(Models(tuned=shuffled))
    enforce(gate)
    job = gate.finished()
    # The batch worker and the judge of graders ask through the same door.
    with pytest.raises(ConflictError):
        gate.api.client.completions.create(model=job.fine_tuned_model, prompt="x")


def test_informed_a_held_tune_answers_and_nothing_is_to_be_let_out(make: Make):
    gate = make(Models(tuned=shuffled))
    job = gate.finished()
    assert job.rootstock["release"]["verdict"] == "hold"
    assert ask(gate, job.fine_tuned_model).model == job.fine_tuned_model
    answer = gate.api.post(f"/v1/rootstock/jobs/{job.id}/release", json={})
    assert answer.status_code == 400 and "not held" in answer.json()["error"]["message"]


def test_only_owners_of_the_project_decide(make: Make):
    gate = make(Models(tuned=shuffled))
    enforce(gate)
    job = gate.finished()
    path = f"/v1/rootstock/jobs/{job.id}/release"
    with gate.api.database.transaction() as tx:
        member = {"Authorization": f"Bearer {keys.create(tx, 'proj_default', 'm', keys.MEMBER)}"}
    assert gate.api.get(path, headers=member).status_code == 200
    assert gate.api.post(path, json={}, headers=member).status_code == 403
    stranger = {"Authorization": f"Bearer {gate.api.other.api_key}"}
    for answer in (gate.api.get(path, headers=stranger), gate.api.post(path, json={}, headers=stranger)):
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "fine_tune_not_found"
    wrong = gate.api.post(path, json={"released": "perhaps"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "released")
    early = gate.job()
    refused = gate.api.post(f"/v1/rootstock/jobs/{early.id}/release", json={})
    assert refused.status_code == 400 and "no verdict yet" in refused.json()["error"]["message"]
    with pytest.raises(NotFoundError):
        gate.api.other.chat.completions.create(
            model=job.fine_tuned_model, messages=[{"role": "user", "content": "Ticket 3"}]
        )


def test_rows_of_the_task_are_what_the_tests_believe(make: Make):
    assert {label(n) for n in range(1000, 1024)} == set(LABELS)
    assert rows(0, 2).count(b"\n") == 2


def test_lines_that_the_job_set_aside_are_what_the_tune_is_asked(make: Make):
    gate = make()
    job = gate.finished(
        held_out=0, training=120, seed=5, extra_body={"rootstock": {"split": {"share": 0.2, "seed": 3}}}
    )
    shown = job.rootstock["release"]
    assert shown["verdict"] == "ship" and shown["examples"] == len(set(shown["lines"]))
    stored = gate.api.app.state.parts.store.get(f"files/{job.training_file}")
    every = b"".join(stored).splitlines()
    aside = splitting.held_out(every, share=0.2, seed=3)
    assert set(shown["lines"]) == aside and 15 <= len(aside) <= 30
    asked = {question for model, question in gate.models.asked if question.startswith("Ticket")}
    assert asked == {f"Ticket {number - 1}" for number in aside}
