"""A job's life through the doors of `rootstock.jobs`, on both databases; properties are in test_jobs_properties."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import db, interruptions, jobs, publish, tables
from rootstock.db import Database, Tx
from rootstock.errors import InvalidRequest, InvalidValue, JobFailure, JobNotFound, LeaseLost
from rootstock.records import JobRecord, JobStatus
from tests.rootstock import making

LIVING = [status for status in JobStatus if not status.terminal]
ENDED = [status for status in JobStatus if status.terminal]
BROKE = JobFailure("server_error", "It broke.")


def messages(database: Database, job_id: str) -> list[str]:
    return [event.message for event in making.said(database, job_id)]


def test_a_new_job_waits_for_its_files_and_says_so(any_database: Database) -> None:
    with any_database.transaction() as tx:
        job = making.submit(tx, seed=None)
        training, validation = making.upload(tx), making.upload(tx)
        with_validation = making.submit(tx, training=training, validation=validation, seed=11)
    assert (job.status, job.fence, job.attempts) == (JobStatus.VALIDATING_FILES, 0, 0)
    assert 0 <= job.seed <= 2147483647
    assert with_validation.seed == 11
    assert with_validation.validation_object == validation.object_key
    assert messages(any_database, job.id) == [
        f"Created fine-tuning job: {job.id}",
        f"Validating training file: {job.training_file}",
    ]
    second = f"Validating training file: {training.id} and validation file: {validation.id}"
    assert messages(any_database, with_validation.id)[1] == second
    assert making.claim(any_database) is None


def test_a_job_is_its_projects_alone(any_database: Database) -> None:
    job = making.queue(any_database)
    with any_database.transaction() as tx:
        making.project(tx, "proj_b")
        assert jobs.get(tx, "proj_a", job.id) == job
        for project, name in [("proj_b", job.id), ("proj_a", "ftjob-none"), ("proj_a", "x\x00"), ("proj_a", "\ud800")]:
            with pytest.raises(JobNotFound):
                jobs.get(tx, project, name)
            with pytest.raises(JobNotFound):
                jobs.cancel(tx, project, name)
            with pytest.raises(JobNotFound):
                jobs.list_checkpoints(tx, project, name)
        assert jobs.list_page(tx, "proj_b").data == []
    assert making.look(any_database, job.id).status is JobStatus.QUEUED


def test_lists_are_newest_first_and_continue_after_a_cursor(any_database: Database) -> None:
    made = [making.queue(any_database).id for _ in range(5)]
    with any_database.read() as tx:
        first = jobs.list_page(tx, "proj_a", limit=2)
        second = jobs.list_page(tx, "proj_a", limit=3, after=first.data[-1].id)
        with pytest.raises(InvalidValue):
            jobs.list_page(tx, "proj_a", after="ftjob-unknown")
    assert [job.id for job in first.data + second.data] == made[::-1]
    assert (first.has_more, second.has_more) == (True, False)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"team": "red"}, ["both", "team"]),
        ({"team": "red", 'o"dd $.key': "ü 'x'"}, ["both"]),
        ({"team": "blue"}, []),
        ({"a.b": "c"}, ["dotted"]),
        ({"a": "c"}, []),
    ],
)
def test_lists_keep_jobs_that_carry_every_asked_pair(
    any_database: Database, wanted: dict[str, str], found: list[str]
) -> None:
    carried: dict[str, dict[str, str] | None] = {
        "none": None,
        "empty": {},
        "dotted": {"a.b": "c"},
        "team": {"team": "red"},
        "both": {"team": "red", 'o"dd $.key': "ü 'x'"},
    }
    made = {making.queue(any_database, metadata=metadata).id: name for name, metadata in carried.items()}
    with any_database.read() as tx:
        assert [made[job.id] for job in jobs.list_page(tx, "proj_a", metadata=wanted).data] == found
        bare = jobs.list_page(tx, "proj_a", without_metadata=True).data
    assert [made[job.id] for job in bare] == ["empty", "none"]


def test_a_claim_leases_the_oldest_job_of_the_base(any_database: Database) -> None:
    first, second = making.queue(any_database), making.queue(any_database)
    making.queue(any_database, base="other")
    job = making.claim(any_database, worker="worker-7")
    assert job is not None
    assert (job.id, job.status, job.fence, job.attempts) == (first.id, JobStatus.RUNNING, 1, 1)
    assert job.lease_owner == "worker-7"
    assert job.lease_expires_at == pytest.approx((job.started_at or 0) + making.LEASE_SECONDS, abs=5)
    assert messages(any_database, job.id)[-1] == "Fine-tuning job started"
    assert making.outcomes(any_database, job.id) == [None]
    following = making.claim(any_database)
    assert following is not None
    assert following.id == second.id
    assert making.claim(any_database) is None


def test_projects_take_turns(any_database: Database) -> None:
    crowd = [making.queue(any_database, "proj_a").id for _ in range(3)]
    late = making.queue(any_database, "proj_b").id
    taken = [making.claim(any_database) for _ in range(4)]
    assert [job and job.id for job in taken] == [crowd[0], late, crowd[1], crowd[2]]


def test_a_renewed_lease_lasts_and_progress_never_goes_back(any_database: Database) -> None:
    job = making.run(any_database)
    making.expire(any_database, job.id)
    with any_database.transaction() as tx:
        want = jobs.renew(
            tx, job.id, job.fence, lease_seconds=60, step=5, total_steps=9, estimated_finish=job.created_at + 100
        )
        assert want == "run"
        jobs.renew(tx, job.id, job.fence, lease_seconds=60, step=3)
        assert interruptions.expired_leases(tx) == []
    now = making.look(any_database, job.id)
    assert (now.progress_step, now.total_steps, now.estimated_finish) == (5, 9, job.created_at + 100)
    assert (now.lease_expires_at or 0) > (job.lease_expires_at or 0)


def test_resolved_numbers_replace_auto(any_database: Database) -> None:
    job = making.run(any_database)
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    with any_database.transaction() as tx:
        jobs.resolve(
            tx,
            job.id,
            job.fence,
            hyperparameters={"n_epochs": 3},
            method=method,
            rootstock={"adapter": {"type": "lora", "rank": 8}},
            total_steps=30,
        )
    now = making.look(any_database, job.id)
    assert (now.hyperparameters, now.method, now.total_steps) == ({"n_epochs": 3}, method, 30)


def test_a_job_that_is_handed_back_may_be_claimed_at_once_and_has_lost_no_attempt(any_database: Database) -> None:
    job = making.run(any_database)
    with any_database.transaction() as tx:
        jobs.mark_rung(tx, job.id)
        interruptions.hand_back(tx, job.id, job.fence)
        assert [waiting.id for waiting in jobs.unrung(tx, 20)] == [job.id]
    back = making.look(any_database, job.id)
    assert (back.status, back.attempts, back.lease_owner, back.estimated_finish) == (JobStatus.QUEUED, 0, None, None)
    again = making.claim(any_database)
    assert again is not None
    assert (again.fence, again.attempts, again.started_at) == (2, 1, job.started_at)
    assert making.outcomes(any_database, job.id) == ["handed_back", None]
    assert messages(any_database, job.id).count("Fine-tuning job started") == 1


def test_a_failed_job_names_its_error_in_the_row_and_in_the_log(any_database: Database) -> None:
    job = making.run(any_database)
    failure = JobFailure("invalid_training_file", "The job failed due to …", "training_file")
    with any_database.transaction() as tx:
        jobs.fail(tx, job.id, job.fence, failure)
    failed = making.look(any_database, job.id)
    assert failed.error == {
        "code": "invalid_training_file",
        "message": "The job failed due to …",
        "param": "training_file",
    }
    assert failed.finished_at is not None
    last = making.said(any_database, job.id)[-1]
    assert (last.level, last.message) == ("error", failure.message)
    assert making.outcomes(any_database, job.id) == ["failed"]


WORKER_WRITES: dict[str, Callable[[Tx, JobRecord], Any]] = {
    "renew": lambda tx, job: jobs.renew(tx, job.id, job.fence, lease_seconds=9, step=99),
    "hold": lambda tx, job: jobs.hold(tx, job.id, job.fence),
    "resolve": lambda tx, job: jobs.resolve(
        tx, job.id, job.fence, hyperparameters={}, method={}, rootstock={}, total_steps=1
    ),
    "checkpoint": lambda tx, job: making.checkpoint(tx, job, 1),
    "finalize": making.finalize,
    "fail": lambda tx, job: jobs.fail(tx, job.id, job.fence, BROKE),
    "hand_back": lambda tx, job: interruptions.hand_back(tx, job.id, job.fence),
}


def everything(database: Database) -> dict[str, list[Any]]:
    with database.read() as tx:
        return {
            name: [tuple(row) for row in tx.execute(sa.select(table))] for name, table in tables.metadata.tables.items()
        }


@pytest.mark.parametrize("write", WORKER_WRITES.values(), ids=list(WORKER_WRITES))
@pytest.mark.parametrize("lost_to", ["cancel", "sweep", "other_worker", "itself"])
def test_a_worker_that_lost_its_job_writes_nothing(
    database: Database, write: Callable[[Tx, JobRecord], Any], lost_to: str
) -> None:
    job = making.run(database)
    with database.transaction() as tx:
        if lost_to == "cancel":
            jobs.cancel(tx, job.project_id, job.id)
        if lost_to == "itself":
            making.finalize(tx, job)
    if lost_to in ("sweep", "other_worker"):
        with database.transaction() as tx:
            interruptions.hand_back(tx, job.id, job.fence)
    if lost_to == "other_worker":
        assert making.claim(database, worker="worker-2") is not None
    before = everything(database)
    with pytest.raises(LeaseLost), database.transaction() as tx:
        write(tx, job)
    assert everything(database) == before


@pytest.mark.parametrize("status", LIVING)
def test_cancel_ends_a_living_job_at_once(any_database: Database, status: JobStatus) -> None:
    job = making.bring(any_database, status)
    with any_database.transaction() as tx:
        cancelled = jobs.cancel(tx, job.project_id, job.id)
    assert cancelled == making.look(any_database, job.id)
    assert (cancelled.status, cancelled.want, cancelled.lease_owner) == (JobStatus.CANCELLED, "cancel", None)
    assert cancelled.finished_at is not None
    assert (cancelled.result_file, cancelled.trained_tokens, cancelled.fine_tuned_model) == (None, None, None)
    assert cancelled.fence > job.fence
    assert messages(any_database, job.id)[-1] == "Job cancelled"
    with any_database.transaction() as tx:
        assert jobs.list_checkpoints(tx, job.project_id, job.id).data == []
        assert not publish.succeed(tx, job.id)
        assert not jobs.to_queued(tx, job.id)
    assert making.claim(any_database) is None


@pytest.mark.parametrize("status", ENDED)
def test_cancel_of_an_ended_job_is_refused_and_changes_nothing(any_database: Database, status: JobStatus) -> None:
    job = making.bring(any_database, status)
    with pytest.raises(InvalidRequest, match=f"'{status}'") as caught, any_database.transaction() as tx:
        jobs.cancel(tx, job.project_id, job.id)
    assert caught.value.status == 400
    assert making.look(any_database, job.id) == job


def test_bad_files_fail_a_job_that_nobody_has_claimed(any_database: Database) -> None:
    with any_database.transaction() as tx:
        job = making.submit(tx)
        assert jobs.fail_unclaimed(tx, job.id, BROKE, from_status=JobStatus.VALIDATING_FILES)
        assert not jobs.fail_unclaimed(tx, job.id, BROKE, from_status=JobStatus.VALIDATING_FILES)
        assert not jobs.to_queued(tx, job.id)
    assert making.look(any_database, job.id).status is JobStatus.FAILED


@pytest.mark.parametrize("status", [JobStatus.RUNNING, *ENDED])
def test_only_unclaimed_jobs_fail_without_a_fence(database: Database, status: JobStatus) -> None:
    job = making.bring(database, status)
    with pytest.raises(ValueError, match=r"running|not in the table"), database.transaction() as tx:
        jobs.fail_unclaimed(tx, job.id, BROKE, from_status=status)
    assert making.look(database, job.id) == job


def test_a_silent_worker_loses_its_job_and_the_next_try_comes_later_each_time(any_database: Database) -> None:
    making.queue(any_database)
    for attempt, wait in [(1, 2), (2, 4)]:
        job = making.claim(any_database)
        assert job is not None
        assert job.attempts == attempt
        with any_database.transaction() as tx:
            assert interruptions.expired_leases(tx) == []
            assert interruptions.requeue(tx, job, max_attempts=3) is None  # it is not silent
        making.expire(any_database, job.id)
        with any_database.transaction() as tx:
            assert [dead.id for dead in interruptions.expired_leases(tx)] == [job.id]
            back = interruptions.requeue(tx, job, max_attempts=3)
            assert interruptions.requeue(tx, job, max_attempts=3) is None  # another replica, the same rows
        assert back is not None
        assert (back.status, back.lease_owner, back.rung_at) == (JobStatus.QUEUED, None, None)
        last = making.said(any_database, job.id)[-1]
        assert last.level == "warn"
        assert f"attempt {attempt} of 3" in last.message
        assert back.not_before == pytest.approx(last.created_at + wait, abs=1)
        assert making.claim(any_database) is None
        with any_database.transaction() as tx:
            assert jobs.unrung(tx, 20) == []
            tx.execute(tables.jobs.update().values(not_before=db.now()))
    job = making.claim(any_database)
    assert job is not None
    making.expire(any_database, job.id)
    with any_database.transaction() as tx:
        failed = interruptions.requeue(tx, job, max_attempts=3)
    assert failed is not None
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "server_error"
    assert "3 times" in failed.error["message"]
    assert making.outcomes(any_database, job.id) == ["lost", "lost", "lost"]


def test_the_wait_before_another_try_is_bounded(database: Database) -> None:
    job = making.run(database)
    with database.transaction() as tx:
        tx.execute(tables.jobs.update().values(attempts=40))
    making.expire(database, job.id)
    with database.transaction() as tx:
        back = interruptions.requeue(tx, making.look(database, job.id), max_attempts=50)
        now = tx.execute(sa.select(db.now())).scalar_one()
    assert back is not None
    assert back.not_before - now <= 60


def test_a_bell_is_due_until_it_was_rung_and_again_when_nobody_came(any_database: Database) -> None:
    job = making.queue(any_database)
    with any_database.transaction() as tx:
        assert [due.id for due in jobs.unrung(tx, 20)] == [job.id]
        jobs.mark_rung(tx, job.id)
        assert jobs.unrung(tx, 20) == []
        tx.execute(tables.jobs.update().values(rung_at=db.now() - 21))
        assert [(due.id, due.rings) for due in jobs.unrung(tx, 20)] == [(job.id, 1)]
    making.claim(any_database)
    with any_database.transaction() as tx:
        assert jobs.unrung(tx, 20) == []


def test_a_bell_that_rings_late_leaves_an_ended_job_alone(database: Database) -> None:
    job = making.bring(database, JobStatus.CANCELLED)
    with database.transaction() as tx:
        jobs.mark_rung(tx, job.id)
    assert making.look(database, job.id) == job


def test_checkpoints_are_listed_newest_first_and_a_step_has_one(any_database: Database) -> None:
    job = making.run(any_database)
    with any_database.transaction() as tx:
        assert jobs.last_checkpoint(tx, job.id) is None
        made = [making.checkpoint(tx, job, step) for step in (3, 6)]
        assert making.checkpoint(tx, job, 6) is None
        listed = jobs.list_checkpoints(tx, job.project_id, job.id)
        assert listed.data == made[::-1]
        assert jobs.list_checkpoints(tx, job.project_id, job.id, limit=1, after=made[1].id).data == [made[0]]
        assert jobs.last_checkpoint(tx, job.id) == made[1]
