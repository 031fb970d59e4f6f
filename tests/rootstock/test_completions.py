"""Stored completions: one project's, found by their labels, forgotten in time. On both databases."""

from typing import Any

import pytest

from rootstock import completions, db, keys, tables
from rootstock.db import Database, Tx
from rootstock.errors import InvalidValue, NotFound
from tests.rootstock.rows import add_project

HOME, OTHER = keys.DEFAULT_PROJECT, "proj_other"


@pytest.fixture
def database(any_database: Database) -> Database:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        add_project(tx, OTHER)
    return any_database


def keep(tx: Tx, number: int, metadata: Any = None, project: str = HOME, model: str = "m") -> str:
    answer = {"id": f"chatcmpl-{number}", "model": model, "created": number}
    completions.keep(tx, project, request_id="req_1", request={"messages": []}, response=answer, metadata=metadata)
    return str(answer["id"])


def listed(tx: Tx, project: str = HOME, **query: Any) -> list[str]:
    return [record.id for record in completions.list_page(tx, project, **query).data]


def relabel(tx: Tx, project: str, completion_id: str) -> None:
    completions.relabel(tx, project, completion_id, {})


def test_what_is_kept_reads_back_and_is_kept_once(database: Database):
    with database.transaction() as tx:
        one = keep(tx, 1, {"k": "v"})
        keep(tx, 1, {"k": "another"})
        record = completions.get(tx, HOME, one)
        assert listed(tx) == [one]
    assert (record.response["created"], record.request, record.metadata) == (1, {"messages": []}, {"k": "v"})
    assert record.expires_at - record.created_at == pytest.approx(completions.KEPT_SECONDS, abs=1)


def test_labels_filter_and_null_means_none(database: Database):
    with database.transaction() as tx:
        both, one, none = keep(tx, 1, {"a": "1", 'b\'s "x"': "%"}), keep(tx, 2, {"a": "1"}), keep(tx, 3, {}, model="n")
        assert listed(tx, metadata={"a": "1"}) == [both, one] and listed(tx, metadata={'b\'s "x"': "%"}) == [both]
        assert listed(tx, metadata={"a": "2"}) == [] and listed(tx, without_metadata=True) == [none]
        assert listed(tx, model="n") == [none] and listed(tx, model="nul\0") == []
        assert listed(tx, order="desc", limit=2) == [none, one] and listed(tx, after=one) == [none]
        assert completions.relabel(tx, HOME, none, {"a": "1"}).metadata == {"a": "1"}
        assert completions.relabel(tx, HOME, one, None).metadata is None
        assert listed(tx, metadata={"a": "1"}) == [both, none]


def test_another_projects_are_not_there(database: Database):
    with database.transaction() as tx:
        theirs = keep(tx, 1, project=OTHER)
        assert listed(tx) == [] and listed(tx, OTHER) == [theirs]
        for call in (completions.get, completions.delete, relabel):
            for wrong in (theirs, "None", "nul\0", "\ud800"):
                with pytest.raises(NotFound):
                    call(tx, HOME, wrong)
        with pytest.raises(InvalidValue):
            listed(tx, after=theirs)


def test_deleted_is_gone_at_once_and_purged_a_day_later(database: Database):
    stored = tables.stored_completions
    with database.transaction() as tx:
        one, two = keep(tx, 1, {"k": "v"}), keep(tx, 2)
        completions.delete(tx, HOME, one)
    with database.transaction() as tx:
        assert listed(tx) == [two] == listed(tx, after=one), "a deleted cursor still counts"
        assert tx.execute(stored.select().where(stored.c.id == one)).one().response == {}
        with pytest.raises(NotFound):
            completions.delete(tx, HOME, one)
        assert completions.purge(tx, 9) == 0
        tx.execute(stored.update().values(expires_at=stored.c.expires_at - completions.GRACE_SECONDS - 1))
        assert completions.purge(tx, 9) == 1 and listed(tx) == [two]
        tx.execute(stored.update().values(expires_at=db.now() - 1))
        assert listed(tx) == []
