"""What runs every few seconds, on every claim or on every page looks rows up in an index, whatever the tables hold."""

import re
from typing import Any, cast

import pytest
import sqlalchemy as sa

from benchmarks.api import fill
from rootstock import batches, events, jobs, keys
from rootstock.bell import Bell
from rootstock.db import Database
from rootstock.settings import Settings
from rootstock.storage import open_store
from rootstock.sweep import Sweep
from tests.service.conftest import QuietBell

JOBS, EVENTS = 20_000, 20_000
LARGE = ("jobs", "job_events", "job_checkpoints", "files")
"""Tables that grow for ever, and that the filler fills."""


@pytest.fixture
def full(any_database: Database) -> Database:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "rootstock")
        fill(tx, JOBS, EVENTS)
    if not any_database.is_sqlite:  # PostgreSQL does it by itself; nothing of ours ever does it on SQLite
        with any_database.transaction() as tx:
            tx.exec_driver_sql("ANALYZE")
    return any_database


def explained(database: Database, work: Any) -> list[tuple[str, str]]:
    """The statements of `work`, each with its plan."""
    said: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        said.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(database.engine, "before_cursor_execute", note)
    found = []
    with database.transaction() as tx:
        for statement, parameters in dict(said).items():
            if re.match(r"\s*(SELECT|UPDATE|DELETE)", statement):
                explain = "EXPLAIN QUERY PLAN " if tx.dialect.name == "sqlite" else "EXPLAIN "
                rows = tx.exec_driver_sql(explain + statement, parameters)
                found.append((statement, "\n".join(str(row[-1]) for row in rows)))
    return found


def scans(database: Database, work: Any) -> list[str]:
    """The statements of `work` whose plan reads a large table from end to end."""
    return [
        f"{table}: {statement}\n{plan}"
        for statement, plan in explained(database, work)
        for table in LARGE
        if re.search(rf"SCAN {table}(?! USING)|Seq Scan on {table}\b", plan)
    ]


def test_a_claim_reads_no_table_from_end_to_end(full: Database):
    def claim() -> None:
        with full.transaction() as tx:
            jobs.claim(tx, base="rootstock-tiny", worker="w", lease_seconds=60)
            batches.claim(tx, worker="w", lease_seconds=60)

    found = scans(full, claim)
    assert not found, "\n\n".join(found)


def test_a_sweep_reads_no_table_from_end_to_end(full: Database, tmp_path: Any):
    settings = Settings.from_env({}, data_dir=tmp_path)
    sweep = Sweep(full, open_store(settings), cast(Bell, QuietBell()), settings)
    found = scans(full, sweep.run_once)
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("after", [None, f"ftevent-{EVENTS // 4}"])
def test_a_page_passes_over_nobody_elses_rows(full: Database, after: str | None):
    # All of the first job's events are older than all others': walking back from the newest would read every one.
    with full.read() as tx:
        page = events.list_page(tx, "ftjob-1", after=after)
        assert page.data[0].id == f"ftevent-{EVENTS // 2 if after is None else EVENTS // 4 - 1}"

    def read() -> None:
        with full.read() as tx:
            events.list_page(tx, "ftjob-1", after=after)

    plans = [plan for statement, plan in explained(full, read) if "LIMIT" in statement]
    assert len(plans) == 1 and "ix_job_events_job_id_seq" in plans[0], plans


@pytest.mark.parametrize("wanted", [{"single": "1"}, {"even": "0", "single": "1"}])
def test_the_jobs_of_one_label_are_found_among_any_number_of_others(full: Database, wanted: dict[str, str]):
    def read() -> None:
        with full.read() as tx:
            found = jobs.list_page(tx, keys.DEFAULT_PROJECT, metadata=wanted)
        assert [job.id for job in found.data] == ["ftjob-1"]

    plans = [plan for statement, plan in explained(full, read) if "JOIN" in statement]
    assert len(plans) == 1
    assert re.search(r"job_labels USING (COVERING )?INDEX|Index (Only )?Scan.* using pk_job_labels", plans[0]), plans
    assert not re.search(r"SCAN |Seq Scan", plans[0]), plans
