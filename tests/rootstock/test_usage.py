"""Sums of usage: whoever adds, nothing is lost; a write that is repeated counts once; a project reads its own."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from rootstock import db, tables, usage
from rootstock.db import Database
from rootstock.errors import InvalidRequest
from rootstock.usage import Amounts, Key
from tests.rootstock.rows import add_project

A, B = "proj_a", "proj_b"
ONE = Amounts(requests=1, failed_requests=0, prompt_tokens=5, completion_tokens=3)
FAILED = Amounts(requests=1, failed_requests=1)


@pytest.fixture
def known(any_database: Database) -> Database:
    """A database with two projects."""
    with any_database.transaction() as tx:
        add_project(tx, A)
        add_project(tx, B)
    return any_database


@pytest.fixture
def used(known: Database) -> Database:
    """Three days of two models, and another project's."""
    with known.transaction() as tx:
        usage.add(tx, {Key(A, "2026-01-01", "m"): ONE, Key(A, "2026-01-01", "ft:m"): ONE})
        usage.add(tx, {Key(A, "2026-01-02", "m"): ONE + FAILED, Key(B, "2026-01-02", "m"): ONE})
        usage.add(tx, {Key(A, "2026-01-01", "m"): ONE, Key(A, "2026-01-31", "m"): ONE})
    return known


def total(database: Database, project: str | None = A, start: str = "2026-01-01", end: str = "2026-12-31") -> Amounts:
    with database.read() as tx:
        (row,) = usage.read(tx, project, start, end, by=())
    return row.amounts


def test_what_is_added_adds_up_by_day_and_model(used: Database) -> None:
    with used.read() as tx:
        rows = usage.read(tx, A, "2026-01-01", "2026-01-30")
    assert [(row.project_id, row.day, row.model, row.amounts) for row in rows] == [
        (None, "2026-01-01", "ft:m", ONE),
        (None, "2026-01-01", "m", ONE + ONE),
        (None, "2026-01-02", "m", Amounts(2, 1, 5, 3)),
    ]


def test_it_is_summed_over_what_is_not_asked_for(used: Database) -> None:
    with used.read() as tx:
        by_model = {
            row.model: row.amounts.requests for row in usage.read(tx, A, "2026-01-01", "2026-01-31", by=["model"])
        }
        by_day = {row.day: row.amounts.requests for row in usage.read(tx, A, "2026-01-01", "2026-01-31", by=["day"])}
        everybody = usage.read(tx, None, "2026-01-02", "2026-01-02", by=["project_id", "model"])
    assert by_model == {"ft:m": 1, "m": 5}
    assert by_day == {"2026-01-01": 3, "2026-01-02": 2, "2026-01-31": 1}
    assert [(row.project_id, row.model, row.amounts.requests) for row in everybody] == [(A, "m", 2), (B, "m", 1)]


def test_both_ends_of_a_span_belong_to_it_and_nothing_is_zero(used: Database) -> None:
    assert total(used, start="2026-01-02", end="2026-01-31").requests == 3
    assert total(used, start="2026-01-03", end="2026-01-30") == Amounts()
    assert total(used, "proj_nobody") == Amounts()


@pytest.mark.parametrize(("model", "requests"), [("ft:m", 1), ("FT:m", 0), ("%", 0), ("\0", 0), ("\ud800", 0)])
def test_one_model_is_found_by_its_whole_name(used: Database, model: str, requests: int) -> None:
    with used.read() as tx:
        (row,) = usage.read(tx, A, "2026-01-01", "2026-01-31", by=(), model=model)
    assert row.amounts.requests == requests


def test_more_rows_than_an_answer_holds_are_refused(used: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_ROWS", 3)
    with used.read() as tx:
        assert len(usage.read(tx, A, "2026-01-01", "2026-01-30")) == 3
        with pytest.raises(InvalidRequest, match="more than 3 rows"):
            usage.read(tx, A, "2026-01-01", "2026-01-31")


def test_a_name_of_any_length_finds_room(known: Database) -> None:
    with known.transaction() as tx:
        usage.add(tx, {Key.today(A, "é" * 100_000): ONE})
    assert total(known, start="2020-01-01", end="2999-01-01") == ONE


def test_many_who_add_at_once_lose_nothing_and_do_not_block_one_another(known: Database) -> None:
    keys = [Key(project, f"2026-01-0{day}", "m") for project in (A, B) for day in (1, 2, 3)]
    begin = Barrier(8)

    def work(number: int) -> None:
        begin.wait(20)
        for turn in range(10):
            with known.transaction() as tx:
                usage.add(tx, dict.fromkeys(keys if (number + turn) % 2 else keys[::-1], ONE))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert total(known, A) == total(known, B) == Amounts(240, 0, 1200, 720)


def test_a_numbered_write_is_made_once(known: Database) -> None:
    for number, first in ((1, True), (1, False), (2, True), (1, False), (2, False), (5, True)):
        with known.transaction() as tx:
            assert usage.is_first(tx, "writer", number) is first
    with known.transaction() as tx:
        assert usage.is_first(tx, "other", 1)


def test_a_write_that_was_rolled_back_was_not_made(known: Database) -> None:
    def broken_off() -> None:
        with known.transaction() as tx:
            assert usage.is_first(tx, "writer", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    with known.transaction() as tx:
        assert usage.is_first(tx, "writer", 1)


def test_of_two_at_once_one_is_the_first(known: Database) -> None:
    begin = Barrier(6)

    def write(_: int) -> bool:
        begin.wait(20)
        with known.transaction() as tx:
            return usage.is_first(tx, "writer", 1)

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(write, range(6))) == [False] * 5 + [True]


def test_writers_that_are_gone_are_forgotten(known: Database) -> None:
    with known.transaction() as tx:
        usage.is_first(tx, "gone", 1)
        usage.is_first(tx, "alive", 1)
        old = db.now() - usage.FORGET_SECONDS - 1
        tx.execute(tables.usage_writers.update().where(tables.usage_writers.c.id == "gone").values(written_at=old))
        usage.is_first(tx, "new", 1)
        assert set(tx.scalars(tables.usage_writers.select())) == {"alive", "new"}
