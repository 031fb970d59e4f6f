"""Pause and resume, whatever the worker does meanwhile; the random lives are in test_jobs_properties."""

import pytest

from rootstock import interruptions, jobs, models, publish
from rootstock.db import Database
from rootstock.errors import InvalidRequest, JobNotFound, LeaseLost
from rootstock.records import JobRecord, JobStatus
from tests.rootstock import making


def pause(database: Database, job: JobRecord) -> JobRecord:
    with database.transaction() as tx:
        return interruptions.pause(tx, job.project_id, job.id)


def resume(database: Database, job: JobRecord) -> JobRecord:
    with database.transaction() as tx:
        return interruptions.resume(tx, job.project_id, job.id)


def hand_back(database: Database, job: JobRecord) -> JobRecord:
    with database.transaction() as tx:
        return interruptions.hand_back(tx, job.id, job.fence)


def hear(database: Database, job: JobRecord) -> str:
    with database.transaction() as tx:
        return jobs.renew(tx, job.id, job.fence, lease_seconds=30)


def told(database: Database, job: JobRecord) -> list[str]:
    """What was said since the job was started."""
    messages = [event.message for event in making.said(database, job.id)]
    return messages[messages.index("Fine-tuning job started") + 1 :]


def test_a_running_job_reads_paused_at_once_and_rests_when_its_worker_has_let_go(any_database: Database) -> None:
    job = making.run(any_database)
    asked = pause(any_database, job)
    assert (asked.status, asked.shown_status) == (JobStatus.RUNNING, "paused")
    assert hear(any_database, job) == "pause"
    with any_database.transaction() as tx:
        assert making.checkpoint(tx, job, 5, epoch=0) is not None
    resting = hand_back(any_database, job)
    assert (resting.status, resting.shown_status, resting.attempts) == (JobStatus.PAUSED, "paused", 0)
    assert (resting.want, resting.lease_owner, resting.estimated_finish) == ("run", None, None)
    assert making.claim(any_database) is None
    with any_database.read() as tx:
        saved = jobs.list_checkpoints(tx, job.project_id, job.id).data
        assert [model.id for model in models.list_ready(tx, job.project_id)] == [saved[0].model_name]
    queued = resume(any_database, job)
    assert (queued.status, queued.shown_status) == (JobStatus.QUEUED, "queued")
    again = making.claim(any_database)
    assert again is not None
    assert (again.id, again.attempts) == (job.id, 1)
    assert making.outcomes(any_database, job.id) == ["paused", None]
    assert told(any_database, job) == [
        "Pausing the job after the current step",
        f"Checkpoint created at step 5 with Snapshot ID: {saved[0].model_name}",
        "Job paused",
        "Job resumed, moving job to queued state",
    ]


def test_a_queued_job_rests_at_once(any_database: Database) -> None:
    job = making.queue(any_database)
    assert pause(any_database, job).status is JobStatus.PAUSED
    assert pause(any_database, job).status is JobStatus.PAUSED  # a repeated request changes nothing
    assert making.claim(any_database) is None
    assert resume(any_database, job).status is JobStatus.QUEUED
    assert making.claim(any_database) is not None


def test_resumed_before_its_worker_has_stopped_it_is_queued_as_soon_as_that_lets_go(any_database: Database) -> None:
    job = making.run(any_database)
    pause(any_database, job)
    thought_better = resume(any_database, job)
    assert (thought_better.status, thought_better.shown_status) == (JobStatus.RUNNING, "queued")
    assert hear(any_database, job) == "resume"
    with pytest.raises(InvalidRequest, match="'queued', not 'paused'"):
        resume(any_database, job)
    assert hand_back(any_database, job).status is JobStatus.QUEUED
    assert making.claim(any_database) is not None
    assert told(any_database, job) == [
        "Pausing the job after the current step",
        "Job resumed, moving job to queued state",
    ]


def test_paused_again_after_that_it_rests(any_database: Database) -> None:
    job = making.run(any_database)
    for change in (pause, resume, pause):
        change(any_database, job)
    assert hand_back(any_database, job).status is JobStatus.PAUSED


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_worker_that_dies_before_it_has_stopped_leaves_a_paused_job(any_database: Database, attempts: int) -> None:
    job = making.run(any_database)
    for _ in range(attempts - 1):
        making.lose(any_database, job)
        again = making.claim(any_database)
        assert again is not None
        job = again
    pause(any_database, job)
    resting = making.lose(any_database, job)
    assert resting is not None
    assert (resting.status, resting.attempts) == (JobStatus.PAUSED, attempts)
    assert (made := making.said(any_database, job.id)[-1]).level == "warn"
    assert "goes on from its last checkpoint" in made.message
    with pytest.raises(LeaseLost):
        hand_back(any_database, job)
    assert resume(any_database, job).attempts == 0, "the owner's word starts the count again"


def test_a_change_of_mind_while_the_sweep_looks_is_not_overruled(any_database: Database) -> None:
    job = making.run(any_database)
    making.expire(any_database, job.id)
    found = making.look(any_database, job.id)
    pause(any_database, job)
    with any_database.transaction() as tx:
        assert interruptions.requeue(tx, found, max_attempts=3) is None
    assert making.look(any_database, job.id).shown_status == "paused"


@pytest.mark.parametrize("stopped", [False, True])
def test_a_pausing_or_paused_job_can_be_cancelled(any_database: Database, stopped: bool) -> None:
    job = making.run(any_database)
    pause(any_database, job)
    if stopped:
        hand_back(any_database, job)
    with any_database.transaction() as tx:
        assert jobs.cancel(tx, job.project_id, job.id).shown_status == "cancelled"
    with pytest.raises(LeaseLost):
        hand_back(any_database, job)
    with pytest.raises(InvalidRequest):
        resume(any_database, job)


def test_asked_to_pause_at_its_last_step_it_finishes(any_database: Database) -> None:
    job = making.run(any_database)
    pause(any_database, job)
    with any_database.transaction() as tx:
        making.finalize(tx, job)
    trained = making.look(any_database, job.id)
    assert (trained.status, trained.shown_status, trained.want) == (JobStatus.FINALIZING, "running", "run")
    assert told(any_database, job)[-1] == "No step was left to pause at, the job finishes instead"
    with any_database.transaction() as tx:
        assert publish.succeed(tx, job.id)


@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED}))
def test_what_does_not_train_cannot_be_paused(any_database: Database, status: JobStatus) -> None:
    job = making.bring(any_database, status)
    for change in (pause, resume):
        with pytest.raises(InvalidRequest) as caught:
            change(any_database, job)
        assert caught.value.status == 400
    assert making.look(any_database, job.id) == job


def test_another_projects_job_cannot_be_found(database: Database) -> None:
    job = making.run(database)
    for act in (interruptions.pause, interruptions.resume):
        with pytest.raises(JobNotFound), database.transaction() as tx:
            act(tx, "proj_b", job.id)
