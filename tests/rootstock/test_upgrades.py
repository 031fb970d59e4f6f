"""Base upgrades' rows on both databases: who holds one, what moves once, what an end leaves."""

from typing import Any

import pytest

from rootstock import upgrades
from rootstock.db import Database, Tx
from rootstock.errors import InvalidRequest, NotFound
from rootstock.upgrades import Finding, State, Upgrade
from tests.rootstock import making


def finding(name: str, reason: str | None = None) -> Finding:
    return Finding(name, "ftjob-none", reason, [], None, None)


def plan(tx: Tx, *found: Finding) -> Upgrade:
    project = making.project(tx, "proj_a")
    asked: dict[str, Any] = {"from_base": "a", "to_base": "b", "concurrency": 1, "key_id": "key_1"}
    return upgrades.create(tx, project, **asked, found=found)


def states(tx: Tx, upgrade: Upgrade) -> list[str]:
    return [str(one.state) for one in upgrades.affected(tx, upgrade.id)]


def test_a_plan_goes_on_only_once_it_is_started(any_database: Database) -> None:
    with any_database.transaction() as tx:
        made = plan(tx, finding("x"), finding("y", "its file is gone"))
        assert states(tx, made) == ["waiting", "skipped"] and upgrades.running(tx) == []
        assert upgrades.hold(tx, made.id) is None
        started = upgrades.start(tx, "proj_a", made.id, "key_2")
        assert (started.status, started.key_id) == ("running", "key_2")
        assert upgrades.start(tx, "proj_a", made.id, "key_3").key_id == "key_2", "again changes nothing"
        assert upgrades.running(tx) == [made.id] and upgrades.hold(tx, made.id) is not None
        for act in (lambda: upgrades.start(tx, "proj_b", made.id, "k"), lambda: upgrades.cancel(tx, "proj_b", made.id)):
            with pytest.raises(NotFound):
                act()


def test_a_model_leaves_each_state_once(any_database: Database) -> None:
    with any_database.transaction() as tx:
        made = plan(tx, finding("x"))
        (before,) = upgrades.affected(tx, made.id)
        upgrades.advance(tx, before, State.TRAINING, new_job_id="ftjob-1")
        upgrades.advance(tx, before, State.FAILED, reason="late")  # by what was read before
        (after,) = upgrades.affected(tx, made.id, State.TRAINING)
        assert (after.new_job_id, after.reason) == ("ftjob-1", None)
        assert upgrades.counts(tx, [made.id]) == {made.id: {"training": 1}}


def test_it_is_complete_when_nothing_goes_on(any_database: Database) -> None:
    with any_database.transaction() as tx:
        made = plan(tx, finding("x"))
        started = upgrades.start(tx, "proj_a", made.id, "k")
        assert not upgrades.complete(tx, started)
        upgrades.advance(tx, upgrades.affected(tx, made.id)[0], State.KEPT)
        assert upgrades.complete(tx, started) and not upgrades.complete(tx, started)
        with pytest.raises(InvalidRequest, match="already 'completed'"):
            upgrades.cancel(tx, "proj_a", made.id)
        with pytest.raises(InvalidRequest, match="already 'completed'"):
            upgrades.start(tx, "proj_a", made.id, "k")


def test_cancelling_leaves_what_has_ended(any_database: Database) -> None:
    with any_database.transaction() as tx:
        made = plan(tx, finding("x"), finding("y"), finding("z", "no"))
        upgrades.advance(tx, upgrades.affected(tx, made.id)[0], State.RELEASED)
        assert upgrades.cancel(tx, "proj_a", made.id).status == "cancelled"
        assert states(tx, made) == ["released", "cancelled", "skipped"]


def test_pages_and_whose_they_are(any_database: Database) -> None:
    with any_database.transaction() as tx:
        ids = [plan(tx).id for _ in range(3)]
        page = upgrades.list_page(tx, "proj_a", limit=2)
        assert [one.id for one in page.data] == ids[:0:-1] and page.has_more
        assert upgrades.list_page(tx, "proj_b").data == []
        assert upgrades.standing_on(tx, "proj_a", "a") == []
