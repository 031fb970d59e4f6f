"""What may happen to a batch while it runs: cancelled, too late, begun again, an engine that fails."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from rootstock import tables
from tests.service.batching import Work, content, line, overdue, rows_left, submit, work
from tests.service.conftest import OTHER_PROJECT, Api
from tests.service.fake_vllm import CONTEXT_FULL, FakeVllm, refusal

__all__ = ["work"]  # a fixture


def test_cancelling_before_anything_was_read(api: Api, work: Work) -> None:
    batch = submit(api, [line("a"), line("b")])
    cancelled = api.client.batches.cancel(batch.id)
    assert cancelled.status == "cancelling" and cancelled.cancelling_at is not None
    assert api.client.batches.cancel(batch.id).status == "cancelling"
    work()
    cancelled = api.client.batches.retrieve(batch.id)
    assert (cancelled.status, cancelled.output_file_id, cancelled.error_file_id) == ("cancelled", None, None)
    assert cancelled.cancelled_at is not None
    with pytest.raises(openai.BadRequestError, match="already 'cancelled'"):
        api.client.batches.cancel(batch.id)


def halfway(api: Api, vllm: FakeVllm, then: Callable[[], Any]) -> None:
    """The third question that vLLM gets triggers something, and hangs; the first two were answered."""

    def refuse_some(_: dict[str, Any]) -> Any:
        if len(vllm.received) == 3:
            vllm.hang = True
            then()

    vllm.refuse_some = refuse_some


def quick(api: Api) -> Any:
    """Settings with which a worker looks often and asks for one line at a time."""
    return api.settings.with_values(heartbeat_seconds=0.05, batch_concurrency=1)


def test_cancelling_keeps_what_was_answered(api: Api, vllm: FakeVllm, work: Work) -> None:
    batch = submit(api, [line(str(n)) for n in range(9)])
    halfway(api, vllm, lambda: api.client.batches.cancel(batch.id))
    work(settings=quick(api))
    batch = api.client.batches.retrieve(batch.id)
    assert batch.status == "cancelled"
    assert batch.request_counts is not None and batch.request_counts.completed == 2
    assert set(content(api, batch.output_file_id)) == {"0", "1"}
    errors = content(api, batch.error_file_id)
    assert set(errors) == {str(n) for n in range(2, 9)}
    assert {(row["response"], row["error"]["code"]) for row in errors.values()} == {(None, "batch_cancelled")}
    assert vllm.running == 0


def test_expiry_keeps_what_was_answered(api: Api, vllm: FakeVllm, work: Work) -> None:
    batch = submit(api, [line(str(n)) for n in range(9)])
    halfway(api, vllm, lambda: overdue(api, batch.id))
    work(settings=quick(api))
    batch = api.client.batches.retrieve(batch.id)
    assert batch.status == "expired" and batch.expired_at is not None
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (9, 2, 0)
    assert set(content(api, batch.output_file_id)) == {"0", "1"}
    errors = content(api, batch.error_file_id)
    assert set(errors) == {str(n) for n in range(2, 9)}
    assert {(row["response"], row["error"]["code"]) for row in errors.values()} == {(None, "batch_expired")}


def test_a_batch_that_nobody_began_in_time_expires(api: Api, vllm: FakeVllm, work: Work) -> None:
    batch = submit(api, [line("a")])
    overdue(api, batch.id)
    work(settings=quick(api))
    batch = api.client.batches.retrieve(batch.id)
    assert (batch.status, batch.output_file_id) == ("expired", None)
    assert set(content(api, batch.error_file_id)) == {"a"}


def test_a_restart_goes_on_and_asks_nothing_twice(api: Api, vllm: FakeVllm, work: Work) -> None:
    batch = submit(api, [line(str(n), f"question {n}") for n in range(9)])
    leaving: list[bool] = []
    halfway(api, vllm, lambda: leaving.append(True))
    work(settings=quick(api), leaving=lambda: bool(leaving))
    assert api.client.batches.retrieve(batch.id).status == "in_progress"
    assert rows_left(api) == 2
    vllm.hang = False
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert batch.status == "completed" and len(content(api, batch.output_file_id)) == 9
    asked = [body["messages"][0]["content"] for body in vllm.received]
    # Only the one whose answer had not come when the first worker left.
    assert sorted(asked) == sorted([f"question {n}" for n in range(9)] + ["question 2"])


def test_a_model_that_is_deleted_midway_costs_the_lines_that_are_left(api: Api, vllm: FakeVllm, work: Work) -> None:
    name = api.model("ft:gpt-4o-mini-2024-07-18:rootstock:tune:abcdefgh", "adapter-tuned-1")

    def refuse_some(_: dict[str, Any]) -> None:
        if len(vllm.received) == 3:
            api.client.models.delete(name)

    vllm.refuse_some = refuse_some
    batch = submit(api, [line(str(n), model=name) for n in range(9)])
    work(settings=quick(api))
    batch = api.client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert set(content(api, batch.output_file_id)) == {"0", "1", "2"}
    errors = content(api, batch.error_file_id)
    assert len(errors) == 6
    assert {row["response"]["status_code"] for row in errors.values()} == {404}
    assert {row["response"]["body"]["error"]["code"] for row in errors.values()} == {"model_not_found"}


def test_another_projects_model_is_not_found(api: Api, work: Work) -> None:
    name = api.model("ft:gpt-4o-mini-2024-07-18:rootstock:tune:theirs00", "adapter-theirs-1", OTHER_PROJECT)
    batch = submit(api, [line("a", model=name)])
    work()
    errors = api.client.batches.retrieve(batch.id).errors
    assert errors is not None and [error.code for error in errors.data] == ["model_not_found"]


def test_what_passes_is_waited_for(api: Api, vllm: FakeVllm, work: Work) -> None:
    # The engine is away for longer than any line's number of tries would last.
    vllm.healthy = False
    vllm.looks_until_healthy = 30
    vllm.refuse_some = lambda _: None if vllm.healthy else refusal(503, "loading")
    batch = submit(api, [line("a"), line("b")])
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert batch.request_counts is not None and batch.request_counts.completed == 2
    assert len(vllm.received) == 4


def test_what_lasts_becomes_the_lines_error(api: Api, vllm: FakeVllm, work: Work) -> None:
    def refuse_some(body: dict[str, Any]) -> Any:
        return refusal(500, "CUDA out of memory") if body["messages"][0]["content"] == "poison" else None

    vllm.refuse_some = refuse_some
    batch = submit(api, [line("a"), line("b", "poison")])
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert set(content(api, batch.output_file_id)) == {"a"}
    row = content(api, batch.error_file_id)["b"]
    assert row["response"]["status_code"] == 503
    assert "CUDA" not in json.dumps(row)


def test_an_engine_that_talks_nonsense_costs_lines_and_not_the_worker(api: Api, vllm: FakeVllm, work: Work) -> None:
    vllm.refuse = (200, {"surprise": True})
    batch = submit(api, [line("a")])
    work()
    batch = api.client.batches.retrieve(batch.id)
    assert content(api, batch.error_file_id)["a"]["response"]["status_code"] == 500


def test_deleting_the_input_is_harmless(api: Api, work: Work) -> None:
    batch = submit(api, [line("a")])
    api.client.files.delete(batch.input_file_id)
    api.app.state.parts.sweep.run_once()
    work()
    assert api.client.batches.retrieve(batch.id).status == "completed"
    api.app.state.parts.sweep.run_once()
    with api.database.read() as tx:
        purged = sa.select(tables.files.c.purged_at).where(tables.files.c.id == batch.input_file_id)
        assert tx.scalar(purged) is not None


def test_an_input_that_is_gone_fails_the_batch(api: Api, work: Work) -> None:
    batch = submit(api, [line("a")])
    api.app.state.parts.store.delete(f"files/{batch.input_file_id}")
    work()
    errors = api.client.batches.retrieve(batch.id).errors
    assert errors is not None and [error.code for error in errors.data] == ["invalid_file"]


def test_a_long_batch_gives_way_to_another(
    api: Api, vllm: FakeVllm, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.batching.life.GROUP_SECONDS", 0.0)
    long = submit(api, [line(str(n)) for n in range(40)])
    short = submit(api, [line("a")])
    seen = []
    for _ in range(99):
        batch = work(settings=quick(api), turn_seconds=0.0)
        if batch is None:
            break
        seen.append(batch.id)
    assert seen[:3] == [long.id, short.id, long.id]
    for made in (long, short):
        assert api.client.batches.retrieve(made.id).status == "completed"
    assert len(vllm.received) == 41, "a turn ends between two lines"


def test_the_end_is_told_to_webhooks(api: Api, work: Work) -> None:
    with api.database.transaction() as tx:
        tx.execute(
            tables.webhook_endpoints.insert().values(
                id="we_1",
                project_id="proj_default",
                url="https://x.example",
                name="x",
                event_types=["*"],
                secret="whsec_x",
                created_at=1.0,
            )
        )
    done, bad = submit(api, [line("a")]), submit(api, b"x")
    stopped = submit(api, [line("a")])
    api.client.batches.cancel(stopped.id)
    while work():
        pass
    with api.database.read() as tx:
        told = tx.execute(sa.select(tables.webhook_deliveries.c.event_type, tables.webhook_deliveries.c.resource_id))
        assert {tuple(row) for row in told} == {
            ("batch.completed", done.id),
            ("batch.failed", bad.id),
            ("batch.cancelled", stopped.id),
        }


def test_a_batch_counts_in_its_project_s_usage_with_its_results(api: Api, vllm: FakeVllm, work: Work) -> None:
    tries: dict[str, int] = {}

    def moods(body: dict[str, Any]) -> Any:
        said = body["messages"][0]["content"]
        tries[said] = tries.get(said, 0) + 1
        if said == "later" and tries[said] < 3:
            return refusal(503, "starting")
        return refusal(400, CONTEXT_FULL) if said == "long" else None

    vllm.refuse_some = moods
    submit(api, [line("a"), line("b", "later"), line("c", "long"), line("d", temperature=9)])
    submit(api, [line("a", model="ft:absent")])
    while work():
        pass
    rows = api.get("/v1/rootstock/usage").json()["data"]
    told = [{name: row[name] for name in row if name not in ("object", "day")} for row in rows]
    # A line that was tried three times is one request; what was never put to a model is none.
    tokens = {"prompt_tokens": 10, "completion_tokens": 6}
    assert told == [{"model": "gpt-4o-mini", "requests": 3, "failed_requests": 1} | tokens]
    assert tries == {"Hi": 1, "later": 3, "long": 1}
