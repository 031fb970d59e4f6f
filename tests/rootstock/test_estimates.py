"""Estimates as rows: kept with the job, held against what it took, and read as history."""

from dataclasses import replace

from rootstock import estimates, tables
from rootstock.db import Database
from rootstock.estimating import Plan, estimate
from rootstock.records import JobStatus
from tests.rootstock import making

MADE = estimate(Plan("supervised", "lora", 5_000, 12), [])


def test_what_a_job_took_stands_beside_what_it_was_thought_to_take(any_database: Database) -> None:
    job = making.run(any_database)
    with any_database.transaction() as tx:
        estimates.keep(tx, job, 5_000, MADE)
        assert estimates.find(tx, job.id) == {"estimate": MADE.as_dict(), "actual": None}
        assert estimates.history(tx, job.base, "supervised", "lora") == []
        making.finalize(tx, job, step=8)
        found = estimates.find(tx, job.id)
        assert found is not None and found["actual"]["trained_tokens"] == 1234
        assert found["actual"]["seconds"] >= 0 and found["actual"]["peak_memory_gib"] is None
        (past,) = estimates.history(tx, job.base, "supervised", "lora")
        assert (past.file_bytes, past.tokens, past.memory_bytes) == (5_000, 1234, None)
        assert (
            estimates.history(tx, job.base, "dpo", "lora") == estimates.history(tx, "other", "supervised", "lora") == []
        )


def test_a_job_that_ended_early_counts_for_the_part_that_was_trained(any_database: Database) -> None:
    job = making.run(any_database)
    with any_database.transaction() as tx:
        estimates.keep(tx, job, 5_000, MADE)
        values = {"progress_step": 5, "total_steps": 20, "hyperparameters": {"n_epochs": 4}}
        tx.execute(tables.jobs.update().where(tables.jobs.c.id == job.id).values(**values))
        making.finalize(tx, replace(job, progress_step=5), step=5)
        (past,) = estimates.history(tx, job.base, "supervised", "lora")
        assert (past.passes, past.steps) == (1.0, 5)


def test_a_job_without_an_estimate_ends_all_the_same(any_database: Database) -> None:
    job = making.bring(any_database, JobStatus.SUCCEEDED)
    with any_database.read() as tx:
        assert estimates.find(tx, job.id) is None
