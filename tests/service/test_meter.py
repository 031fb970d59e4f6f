"""The meter: what it was told reaches the database once, whatever the database does; tokens of streams of any form."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootstock import usage
from rootstock.db import Database, Tx
from rootstock.errors import Unavailable
from rootstock.usage import Amounts
from service import meter
from service.meter import OTHERS, Meter, Tally

ONE = Amounts(1, 0, 5, 3)
PROJECT = "proj_default"


class Weather(Database):
    """A database whose next transactions end as `faults` says: `before` or `after` their commit, or well."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.faults: list[str] = []

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Tx]:
        fault = self.faults.pop(0) if self.faults else ""
        with super().transaction() as tx:
            yield tx
            if fault == "before":
                raise Unavailable("gone before the commit")
        if fault == "after":
            raise Unavailable("gone while the commit was answered")


@pytest.fixture
def database(settings: Any) -> Iterator[Weather]:
    made = Weather(settings.effective_database_url)
    yield made
    made.close()


def sums(database: Database, project: str = PROJECT) -> dict[str, Amounts]:
    with database.read() as tx:
        return {
            str(row.model): row.amounts for row in usage.read(tx, project, "2000-01-01", "2999-01-01", by=["model"])
        }


def test_what_was_added_is_in_the_database_after_a_flush(database: Weather):
    counted = Meter(database)
    counted.flush()
    assert sums(database) == {}
    for model in ("a", "b", "a"):
        counted.add(PROJECT, model, ONE)
    counted.add("proj_other", "a", ONE)
    assert sums(database) == {}
    counted.flush()
    counted.flush()
    assert sums(database) == {"a": ONE + ONE, "b": ONE}
    assert sums(database, "proj_other") == {"a": ONE}


def test_days_end_at_midnight_utc(database: Weather, monkeypatch: pytest.MonkeyPatch):
    counted = Meter(database)
    counted.add(PROJECT, "a", ONE)
    key = usage.Key.today(PROJECT, "a")
    monkeypatch.setattr(usage.Key, "today", classmethod(lambda cls, project, model: cls(project, "2999-12-31", model)))
    counted.add(PROJECT, "a", ONE)
    counted.flush()
    with database.read() as tx:
        assert [row.day for row in usage.read(tx, PROJECT, "2000-01-01", "2999-12-31")] == [key.day, "2999-12-31"]


def test_a_database_that_is_away_for_a_while_costs_nothing(database: Weather):
    counted = Meter(database)
    with database.transaction() as tx:
        tx.exec_driver_sql("ALTER TABLE usage RENAME TO hidden")
    for _ in range(3):
        counted.add(PROJECT, "a", ONE)
        with pytest.raises(Unavailable):
            counted.flush()
    with database.transaction() as tx:
        tx.exec_driver_sql("ALTER TABLE hidden RENAME TO usage")
    counted.flush()
    counted.flush()
    assert sums(database) == {"a": Amounts(3, 0, 15, 9)}


WEATHER = st.lists(st.sampled_from(["add a", "add b", "flush", "flush", "before", "after"]), max_size=30)


@settings(max_examples=60)
@given(steps=WEATHER)
def test_whatever_the_database_does_everything_counts_once(steps: list[str], tmp_path_factory: Any, migrated: Any):
    path = tmp_path_factory.mktemp("weather") / "rootstock.db"
    path.write_bytes(migrated[0].read_bytes())
    database = Weather(f"sqlite:///{path}")
    counted = Meter(database)
    told = {"a": Amounts(), "b": Amounts()}
    for step in steps:
        if step.startswith("add"):
            counted.add(PROJECT, step[-1], ONE)
            told[step[-1]] += ONE
            continue
        database.faults = [] if step == "flush" else [step]
        with contextlib.suppress(Unavailable):
            counted.flush()
    database.faults = []
    counted.close()
    assert sums(database) == {model: amounts for model, amounts in told.items() if amounts.requests}
    database.close()


def test_memory_is_bounded_and_no_amount_is_lost(database: Weather, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meter, "MAX_SUMS", 2)
    counted = Meter(database)
    for model in ("a", "b", "c", "d", "a"):
        counted.add(PROJECT, model, ONE)
    counted.flush()
    assert sums(database) == {"a": ONE + ONE, "b": ONE, OTHERS: ONE + ONE}


def test_what_cannot_be_written_at_the_end_is_told(database: Weather, caplog: pytest.LogCaptureFixture):
    counted = Meter(database)
    counted.add(PROJECT, "a", ONE)
    database.faults = ["before", "before"]
    with caplog.at_level(logging.ERROR):
        counted.close()
    assert "usage that cannot be written is lost" in caplog.text and "prompt_tokens=5" in caplog.text


def tallied(answers: int, *events: dict[str, Any]) -> Amounts:
    told: list[Amounts] = []
    with Tally(told.append, answers) as tally:
        for event in events:
            tally.event(event)
    (amounts,) = told
    return amounts


def piece(index: int, prompt: int, completion: int) -> dict[str, Any]:
    """A chunk as vLLM reports it: the usage is that of its choice alone."""
    found = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"choices": [{"index": index}], "usage": found}


def test_a_stream_that_is_cut_off_counts_what_its_choices_have_so_far():
    assert tallied(1) == Amounts(1, 0, 0, 0)
    assert tallied(1, piece(0, 5, 0), piece(0, 5, 1), piece(0, 5, 2)) == Amounts(1, 0, 5, 2)
    # One prompt with three answers is one prompt, two prompts with two answers each are two.
    assert tallied(3, piece(0, 5, 2), piece(2, 5, 4), piece(0, 5, 3)) == Amounts(1, 0, 5, 7)
    assert tallied(2, piece(0, 5, 2), piece(3, 7, 4), piece(1, 5, 1)) == Amounts(1, 0, 12, 7)


def test_the_last_event_has_the_last_word():
    last = {"choices": [], "usage": {"prompt_tokens": 6, "completion_tokens": 9, "total_tokens": 15}}
    assert tallied(2, piece(0, 5, 2), piece(1, 5, 4), last) == Amounts(1, 0, 6, 9)


def test_an_error_event_fails_the_request_and_what_came_before_counts():
    assert tallied(1, piece(0, 5, 2), {"error": {"message": "died"}}) == Amounts(1, 1, 5, 2)


@pytest.mark.parametrize(("error", "failed"), [(ValueError, 1), (Unavailable, 1), (GeneratorExit, 0)])
def test_an_error_is_a_failure_and_hanging_up_is_none(error: type[BaseException], failed: int):
    told: list[Amounts] = []
    with pytest.raises(error), Tally(told.append, 1):
        raise error("x")
    assert told == [Amounts(1, failed, 0, 0)]
