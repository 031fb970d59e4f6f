"""What may happen to a run of an eval: its worker dies, it is canceled, deleted, makes way for others, fails."""

import runpy
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from rootstock import db, tables, webhooks
from rootstock.evals import runs
from tests.service.conftest import OTHER_PROJECT, Api
from tests.service.fake_vllm import FakeVllm
from tests.service.test_eval_runs import ANSWER, IS_LONG, LOGS, RIGHT, Work, finished, store, work
from tests.service.test_evals import MODEL, an_eval, asking, content

__all__ = ["work"]  # a fixture


def test_a_worker_that_died_repeats_no_finished_item(api: Api, vllm: FakeVllm, work: Work) -> None:
    rows = [{"item": {"country": str(number), "answer": ANSWER}} for number in range(12)]
    made = an_eval(api)
    run = api.client.evals.runs.create(made.id, data_source=asking(content(rows)))
    narrow = api.settings.with_values(batch_concurrency=1)
    work(settings=narrow, leaving=lambda: len(vllm.received) >= 4)
    half = api.client.evals.runs.retrieve(run.id, eval_id=made.id)
    assert half.status == "in_progress" and 0 < half.result_counts.passed < 12
    with api.database.transaction() as tx:  # what a killed one leaves behind
        claimed = runs.claim(tx, worker="killed", lease_seconds=0)
        assert claimed is not None and claimed.id == run.id
    api.app.state.parts.sweep.run_once()
    with api.database.transaction() as tx:
        tx.execute(tables.eval_runs.update().values(not_before=db.now()))
    work()
    found = api.client.evals.runs.retrieve(run.id, eval_id=made.id)
    assert (found.status, found.result_counts.passed) == ("completed", 12)
    asked = [body["messages"][1]["content"] for body in vllm.received]
    stored = half.result_counts.passed
    assert len(asked) <= 12 + 1 and len(asked[stored:]) >= 12 - stored  # what was under way may be asked once more
    items = list(api.client.evals.runs.output_items.list(run.id, eval_id=made.id))
    assert sorted(item.datasource_item_id for item in items) == list(range(1, 13))
    assert found.per_model_usage[0].invocation_count == 12


def test_a_canceled_run_keeps_what_was_graded_and_its_worker_stops(api: Api, vllm: FakeVllm, work: Work) -> None:
    rows = [{"item": {"country": str(number), "answer": ANSWER}} for number in range(40)]
    made = an_eval(api)
    run = api.client.evals.runs.create(made.id, data_source=asking(content(rows)))

    def cancel_midway(_: Any) -> None:
        if len(vllm.received) == 5:
            with api.database.transaction() as tx:
                runs.cancel(tx, "proj_default", made.id, run.id)

    vllm.refuse_some = cancel_midway
    work(settings=api.settings.with_values(batch_concurrency=1))
    found = api.client.evals.runs.retrieve(run.id, eval_id=made.id)
    assert found.status == "canceled" and found.result_counts.passed < 40
    assert not work()
    again = api.client.evals.runs.cancel(run.id, eval_id=made.id)
    assert again.status == "canceled"


def test_a_run_that_has_ended_cannot_be_canceled(api: Api, work: Work) -> None:
    run, _ = finished(api, work, asking(content([RIGHT])))
    with pytest.raises(openai.BadRequestError):
        api.client.evals.runs.cancel(run["id"], eval_id=run["eval_id"])


def test_a_deleted_eval_stops_its_run_and_leaves_nothing(api: Api, vllm: FakeVllm, work: Work) -> None:
    store(api, "Q", usecase="push")
    made = an_eval(api, data_source_config=LOGS, testing_criteria=[IS_LONG])
    source: Any = {"type": "completions", "source": {"type": "stored_completions"}}
    api.client.evals.runs.create(made.id, data_source=source)
    work()
    stays = an_eval(api)
    api.client.evals.delete(made.id)
    with api.database.transaction() as tx:  # a day later
        for table in (tables.evals, tables.eval_runs):
            tx.execute(table.update().where(table.c.deleted_at.is_not(None)).values(deleted_at=0))
        tx.execute(tables.eval_runs.update().values(ended_at=0))
    store_part = api.app.state.parts.store
    assert list(store_part.list("evals/"))
    for _ in range(2):
        api.app.state.parts.sweep.run_once()
    assert not list(store_part.list("evals/"))
    with api.database.read() as tx:
        assert tx.execute(tables.eval_items.select()).all() == [] == tx.execute(tables.eval_runs.select()).all()
        assert [row.id for row in tx.execute(tables.evals.select())] == [stays.id]


def test_a_long_run_lets_other_work_have_its_turn(api: Api, vllm: FakeVllm, work: Work) -> None:
    vllm.refuse_some = lambda _: time.sleep(0.1)  # longer in all than a worker goes without a look at the clock
    made = an_eval(api)
    rows = [{"item": {"country": str(number), "answer": ANSWER}} for number in range(8)]
    run = api.client.evals.runs.create(made.id, data_source=asking(content(rows)))
    other = api.client.evals.runs.create(made.id, data_source=asking(content([RIGHT])))
    narrow: Any = {"turn_seconds": 0.0, "settings": api.settings.with_values(batch_concurrency=1)}
    assert work(**narrow) and work(**narrow)
    found = [api.client.evals.runs.retrieve(one.id, eval_id=made.id).status for one in (run, other)]
    assert found == ["in_progress", "completed"]
    assert work(**narrow)
    ended = api.client.evals.runs.retrieve(run.id, eval_id=made.id)
    assert (ended.status, ended.result_counts.passed) == ("completed", 8)


def test_the_example_runs_as_it_is(
    api: Api, work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[2] / "examples" / "evals.py"
    module = runpy.run_path(str(path))
    monkeypatch.setattr(time, "sleep", lambda _: work())  # while it waits, a worker works
    module["main"](api.client, MODEL)
    told = capsys.readouterr().out
    assert "completed: 0 of 3 passed, 3 failed, 0 errors" in told and f"France: {ANSWER} -> fail" in told


def test_each_end_is_told(api: Api, work: Work) -> None:
    with api.database.transaction() as tx:
        webhooks.create(tx, "proj_default", url="https://example.com/h", name="", event_types=["*"])
        webhooks.create(tx, OTHER_PROJECT, url="https://example.com/o", name="", event_types=["*"])
    done, _ = finished(api, work, asking(content([RIGHT])))
    source: Any = {"type": "completions", "source": {"type": "stored_completions"}}
    failed, _ = finished(api, work, source, data_source_config=LOGS, testing_criteria=[IS_LONG])
    made = an_eval(api)
    canceled = api.client.evals.runs.create(made.id, data_source=asking())
    api.client.evals.runs.cancel(canceled.id, eval_id=made.id)
    with api.database.read() as tx:
        told = {
            (row.event_type, row.resource_id, row.project_id) for row in tx.execute(tables.webhook_deliveries.select())
        }
    assert told == {
        ("eval.run.succeeded", done["id"], "proj_default"),
        ("eval.run.failed", failed["id"], "proj_default"),
        ("eval.run.canceled", canceled.id, "proj_default"),
    }


def test_a_fault_of_ours_costs_attempts_and_then_the_run(api: Api, work: Work) -> None:
    made = an_eval(api)
    run = api.client.evals.runs.create(made.id, data_source=asking())
    with api.database.transaction() as tx:
        tx.execute(tables.evals.update().values(data_source_config={}))  # nothing that we ever write
    for _ in range(api.settings.max_attempts):
        assert work()
        with api.database.transaction() as tx:
            tx.execute(tables.eval_runs.update().values(not_before=db.now()))
    found = api.client.evals.runs.retrieve(run.id, eval_id=made.id)
    assert found.status == "failed" and found.error.code == "server_error"
    assert not work()
