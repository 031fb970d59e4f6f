"""A job's event log: order, paging, and saying each thing once."""

import pytest

from rootstock import events
from rootstock.db import Database
from rootstock.errors import InvalidValue
from tests.rootstock import making


def test_events_are_newest_first_and_continue_to_older_ones(any_database: Database) -> None:
    with any_database.transaction() as tx:
        job, other = making.submit(tx), making.submit(tx)
        for number in range(5):
            events.add(tx, job.id, job.project_id, f"event {number}")
        newest = events.list_page(tx, job.id, limit=1)
        older = events.list_page(tx, job.id, limit=2, after=newest.data[0].id)
        foreign = events.list_page(tx, other.id, limit=1).data[0]
        with pytest.raises(InvalidValue):
            events.list_page(tx, job.id, after=foreign.id)
    assert [event.message for event in newest.data + older.data] == ["event 4", "event 3", "event 2"]
    assert (newest.has_more, older.has_more) == (True, True)
    assert newest.data[0].id.startswith("ftevent-")


def test_a_resumed_run_says_each_thing_once(any_database: Database) -> None:
    with any_database.transaction() as tx:
        job, other = making.submit(tx), making.submit(tx)
        for loss in (2.0, 1.0):
            for step in (1, 2):
                events.add(
                    tx,
                    job.id,
                    job.project_id,
                    f"Step {step}/2: training loss={loss:.2f}",
                    type="metrics",
                    data={"step": step, "total_steps": 2, "train_loss": loss},
                    dedupe=f"step-{step}",
                )
        events.add(tx, other.id, other.project_id, "the same key in another job", dedupe="step-1")
        metrics = [event for event in events.list_page(tx, job.id).data if event.type == "metrics"]
        assert events.list_page(tx, other.id).data[0].message == "the same key in another job"
    assert [event.message for event in metrics] == ["Step 2/2: training loss=2.00", "Step 1/2: training loss=2.00"]
    assert metrics[0].data == {"step": 2, "total_steps": 2, "train_loss": 2.0}
    assert metrics[0].level == "info"


def test_an_event_without_a_key_may_be_repeated(database: Database) -> None:
    with database.transaction() as tx:
        job = making.submit(tx)
        for _ in range(2):
            events.add(tx, job.id, job.project_id, "again", level="warn")
        assert [event.message for event in events.list_page(tx, job.id, limit=2).data] == ["again", "again"]
