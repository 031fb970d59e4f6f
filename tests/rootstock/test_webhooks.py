"""The webhook outbox: who hears of what, once, and only with the commit that it tells of."""

from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import db, ids, jobs, keys, moves, tables, webhooks
from rootstock.db import Database, Tx
from rootstock.errors import JobFailure
from rootstock.records import JobStatus
from tests.rootstock.rows import add_job, add_project


def endpoint(tx: Tx, project: str = keys.DEFAULT_PROJECT, types: Any = ("*",), **more: Any) -> str:
    row = {"id": ids.new("we_"), "url": "https://hooks.test/", "name": "", "secret": "whsec_AAAA", "created_at": 1.0}
    row |= {"project_id": project, "event_types": list(types)} | more
    tx.execute(tables.webhook_endpoints.insert().values(**row))
    return str(row["id"])


def queued(tx: Tx) -> list[sa.Row[Any]]:
    return list(tx.execute(sa.select(tables.webhook_deliveries).order_by(tables.webhook_deliveries.c.seq)))


@pytest.fixture
def seeded(any_database: Database) -> Database:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        add_project(tx, "proj_other")
    return any_database


def test_each_living_endpoint_of_the_project_that_wants_it_hears_once(seeded: Database):
    with seeded.transaction() as tx:
        wanting = {endpoint(tx), endpoint(tx, types=["batch.failed", "batch.completed"])}
        endpoint(tx, types=["batch.failed"])
        endpoint(tx, project="proj_other")
        endpoint(tx, deleted_at=2.0)
        assert webhooks.emit(tx, keys.DEFAULT_PROJECT, "batch.completed", "batch_1") == 2
        assert webhooks.emit(tx, keys.DEFAULT_PROJECT, "batch.completed", "batch_1") == 0
        rows = queued(tx)
    assert {row.endpoint_id for row in rows} == wanting and len(rows) == 2
    assert len({row.event_id for row in rows}) == 1 and len({row.id for row in rows}) == 2
    assert all(row.status == "pending" and row.attempts == 0 and row.resource_id == "batch_1" for row in rows)


def test_what_is_rolled_back_was_never_said(seeded: Database):
    with seeded.transaction() as tx:
        endpoint(tx)

    def fail_after_emitting() -> None:
        with seeded.transaction() as tx:
            assert webhooks.emit(tx, keys.DEFAULT_PROJECT, "batch.failed", "batch_1") == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_emitting()
    with seeded.read() as tx:
        assert queued(tx) == []


def test_an_unknown_type_is_our_own_mistake(seeded: Database):
    with seeded.transaction() as tx, pytest.raises(ValueError, match="is not a webhook event"):
        webhooks.emit(tx, keys.DEFAULT_PROJECT, "batch.done", "batch_1")


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_every_end_of_a_job_is_told_once(seeded: Database, end: str):
    with seeded.transaction() as tx:
        endpoint(tx)
        job = add_job(tx, status="finalizing" if end == "succeeded" else "queued", finalizing_at=db.now())
        source = JobStatus.FINALIZING if end == "succeeded" else JobStatus.QUEUED
        values = {"fine_tuned_model": "ft:a:b::c"} if end == "succeeded" else {}
        assert moves.move(tx, job, [source], JobStatus(end), **values) is not None
        assert moves.move(tx, job, [source], JobStatus(end), **values) is None
        (row,) = queued(tx)
    assert (row.event_type, row.resource_id, row.project_id) == (f"fine_tuning.job.{end}", job, keys.DEFAULT_PROJECT)


def test_a_move_that_ends_nothing_tells_nothing(seeded: Database):
    with seeded.transaction() as tx:
        endpoint(tx)
        job = add_job(tx, status="validating_files")
        moves.move(tx, job, [JobStatus.VALIDATING_FILES], JobStatus.QUEUED)
        assert queued(tx) == []
        jobs.fail_unclaimed(tx, job, JobFailure("x", "y"), from_status=JobStatus.QUEUED)
        assert [row.event_type for row in queued(tx)] == ["fine_tuning.job.failed"]
