"""Watches and their counts on both databases: claims, several writers at once, what ends and what is erased."""

import threading

import pytest

from rootstock import files, keys, models, tables, watch_counts, watches
from rootstock.db import Database
from rootstock.drift.detect import State
from rootstock.drift.profile import Profile
from rootstock.drift.sample import Sample
from rootstock.errors import InvalidValue, NotFound
from rootstock.records import Caller, ModelState
from rootstock.watch_counts import Call, Stale
from rootstock.watches import WatchRecord
from tests.rootstock import making
from tests.rootstock.drift.traffic import drawn

NAME = "ft:tiny:acme::aaaaaaaa"
PROFILE = Profile.of([[call] for call in drawn("labels", 1, 100)])


def made(database: Database, name: str = NAME, *, store: bool = False) -> WatchRecord:
    """A watch whose reference is still to be read."""
    with database.transaction() as tx:
        job = making.submit(tx)
        register = {"project_id": "proj_a", "job_id": job.id, "base": "tiny", "adapter_id": f"adapter-{name[-8:]}"}
        models.register(tx, name=name, state=ModelState.READY, **register)
        caller = Caller(project_id="proj_a", organization_id="acme", key_id="key_1", role=keys.OWNER)
        return watches.create(tx, caller, name, file_id=None, sample_rate=1.0, store_samples=store)


def begun(database: Database, *, store: bool = False) -> WatchRecord:
    """A watch that counts."""
    watch = made(database, store=store)
    with database.transaction() as tx:
        state = State.new(PROFILE.events).pack()
        assert watches.profiled(tx, watch, profile=PROFILE.pack(), state=state, examples=100)
    return watch


def rows(database: Database) -> list[int]:
    with database.read() as tx:
        found = (tables.watches, tables.watch_counts, tables.watch_alarms)
        return [len(tx.execute(table.select()).all()) for table in found]


def odd(count: int) -> list[Call]:
    return [Call(Sample.of("quokka \0 wallaby \ud800", "", "good \0"), float(at)) for at in range(count)]


def test_one_reads_the_reference_at_a_time(any_database: Database):
    watch = made(any_database)
    with any_database.transaction() as tx:
        claimed = watches.claim_profiling(tx, 30.0)
        assert claimed is not None and claimed.id == watch.id
        assert watches.claim_profiling(tx, 30.0) is None
        assert watches.renew_profiling(tx, claimed, 0.0)
    with any_database.transaction() as tx:
        assert watches.claim_profiling(tx, 30.0) is not None
        watches.failed(tx, watch, "too few")
        assert watches.get(tx, "proj_a", watch.id).reason == "too few"
        assert not watches.renew_profiling(tx, watch, 30.0)
        assert not watches.profiled(tx, watch, profile=b"", state=b"", examples=1)


def test_writers_at_once_lose_no_call(any_database: Database):
    watch = begun(any_database)
    calls = [Call(call, 1.0) for call in drawn("labels", 2, 12)]
    writers = [
        threading.Thread(
            target=lambda: [watch_counts.add(any_database, watch, PROFILE, [call], dropped=1) for call in calls]
        )
        for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with any_database.read() as tx:
        counts = watch_counts.read(tx, watch)
    assert counts is not None and (counts.calls, counts.dropped, counts.state.calls) == (36, 36, 36)


def test_an_alarm_is_kept_with_rows_that_any_database_holds(any_database: Database):
    watch = begun(any_database, store=True)
    given = watch_counts.add(any_database, watch, PROFILE, odd(200), dropped=0)
    assert "prompt" in given and watch_counts.add(any_database, watch, PROFILE, odd(200), dropped=0) == []
    with any_database.transaction() as tx:
        page = watches.alarms_page(tx, "proj_a", watch.id, limit=10, after=None).data
        (alarm,) = [alarm for alarm in page if alarm.kind == "prompt"]
        assert alarm.cluster is not None and "quokka" in alarm.cluster["terms"]
        assert 0 < len(alarm.cluster["rows"]) <= watch_counts.MOST_ROWS
        watch_counts.rearm(tx, watch, accept=True)
    assert watch_counts.add(any_database, watch, PROFILE, odd(400), dropped=0) == []


def test_calls_that_were_compared_with_an_older_reference_do_not_count(any_database: Database):
    watch = begun(any_database)
    with any_database.transaction() as tx:
        tx.execute(tables.watches.update().values(generation=2))
        tx.execute(tables.watch_counts.update().values(generation=2))
    with pytest.raises(Stale):
        watch_counts.add(any_database, watch, PROFILE, odd(1), dropped=0)


@pytest.mark.parametrize("gone", ["model", "file", "deleted"])
def test_everything_goes(any_database: Database, gone: str):
    watch = begun(any_database, store=True)
    watch_counts.add(any_database, watch, PROFILE, odd(200), dropped=0)
    assert rows(any_database)[:2] == [1, 1] and rows(any_database)[2] > 0
    with any_database.transaction() as tx:
        if gone == "model":
            models.delete(tx, "proj_a", NAME)
        elif gone == "file":
            files.delete(tx, "proj_a", watch.file_id)
        else:
            watches.delete(tx, "proj_a", watch.id)
        with pytest.raises(NotFound):
            watches.get(tx, "proj_a", watch.id)
        assert watches.watching(tx) == [] and watches.list_page(tx, "proj_a", limit=5, after=None).data == []
        assert watches.end(tx, 10) == (1 if gone in ("model", "file") else 0)
    assert rows(any_database) == [0, 0, 0]


def test_a_name_is_watched_once(any_database: Database):
    made(any_database)
    caller = Caller(project_id="proj_a", organization_id="acme", key_id="key_1", role=keys.OWNER)
    with any_database.transaction() as tx, pytest.raises(InvalidValue, match="watched already"):
        watches.create(tx, caller, NAME, file_id=None, sample_rate=1.0, store_samples=False)
