"""What a job shows the world: checkpoints, the finished model, and nothing of a job that did not succeed."""

import re

import pytest

from rootstock import checkpoints, files, interruptions, jobs, models, publish
from rootstock.db import Database
from rootstock.errors import JobFailure, LeaseLost, ModelNotFound
from rootstock.records import JobStatus, ModelState
from tests.rootstock import making

BROKE = JobFailure("server_error", "It broke.")


def test_a_job_from_upload_to_success_says_what_the_contract_lists(any_database: Database) -> None:
    job = making.run(any_database, suffix="My_tune")
    with any_database.transaction() as tx:
        saved = making.checkpoint(tx, job, 4)
        final = making.finalize(tx, job, step=8)
    waiting = making.look(any_database, job.id)
    assert (waiting.status, waiting.fine_tuned_model, waiting.adapter_id) == (JobStatus.FINALIZING, None, final)
    assert (waiting.lease_owner, waiting.estimated_finish, waiting.finished_at) == (None, None, None)
    assert making.outcomes(any_database, job.id) == ["finalizing"]
    with any_database.transaction() as tx:
        last = checkpoints.of_adapter(tx, job.id, final)
        assert last is not None
        assert models.get(tx, job.project_id, last.model_name).state is ModelState.VERIFYING
        assert publish.succeed(tx, job.id)
    done = making.look(any_database, job.id)
    assert (done.status, done.trained_tokens) == (JobStatus.SUCCEEDED, 1234)
    assert done.finished_at is not None
    tuned = str(done.fine_tuned_model)
    assert re.fullmatch(r"ft:gpt-4o-mini-2024-07-18:acme:my-tune:[A-Za-z0-9]{8}", tuned)
    assert re.fullmatch(r"ft:gpt-4o-mini-2024-07-18:acme:my-tune:[A-Za-z0-9]{8}:ckpt-step-4", saved.model_name)
    assert tuned.split(":")[4] != saved.model_name.split(":")[4]
    assert [(event.level, event.message) for event in making.said(any_database, job.id)] == [
        ("info", f"Created fine-tuning job: {job.id}"),
        ("info", f"Validating training file: {job.training_file}"),
        ("info", "Files validated, moving job to queued state"),
        ("info", "Fine-tuning job started"),
        ("info", f"Checkpoint created at step 4 with Snapshot ID: {saved.model_name}"),
        ("info", f"New fine-tuned model created: {tuned}"),
        ("info", "The job has successfully completed"),
    ]
    with any_database.read() as tx:
        listed = jobs.list_checkpoints(tx, job.project_id, job.id).data
        assert [(c.step_number, c.model_name) for c in listed] == [(8, tuned), (4, saved.model_name)]
        assert [model.id for model in models.list_ready(tx, job.project_id)] == [saved.model_name, tuned]
        assert models.get(tx, job.project_id, tuned).adapter_id == final
        results = files.get(tx, job.project_id, str(done.result_file))
    assert (results.filename, results.purpose, results.bytes) == ("step_metrics.csv", "fine-tune-results", 10)
    assert results.object_key == f"files/{results.id}"


def test_success_happens_once(any_database: Database) -> None:
    job = making.bring(any_database, JobStatus.SUCCEEDED)
    said = making.said(any_database, job.id)
    with any_database.transaction() as tx:
        assert not publish.succeed(tx, job.id)
        assert not publish.succeed(tx, "ftjob-unknown")
    assert making.look(any_database, job.id) == job
    assert making.said(any_database, job.id) == said


@pytest.mark.parametrize("status", [JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.RUNNING])
def test_a_job_that_has_not_finished_training_does_not_succeed(database: Database, status: JobStatus) -> None:
    job = making.bring(database, status)
    with database.transaction() as tx:
        assert not publish.succeed(tx, job.id)
    assert making.look(database, job.id) == job


def test_only_the_checkpoints_of_the_last_three_epochs_stay_callable(any_database: Database) -> None:
    job = making.run(any_database)
    with any_database.transaction() as tx:
        made = [making.checkpoint(tx, job, step) for step in (1, 2, 3, 4)]
        making.finalize(tx, job, step=5)
        assert [c.step_number for c in jobs.list_checkpoints(tx, job.project_id, job.id).data] == [5, 4, 3]
        for old in made[:2]:
            with pytest.raises(ModelNotFound):
                models.get(tx, job.project_id, old.model_name)
        assert [model.id for model in models.list_ready(tx, job.project_id)] == [c.model_name for c in made[2:]]


def test_of_the_checkpoints_that_pauses_made_each_epoch_keeps_the_newest(any_database: Database) -> None:
    job = making.run(any_database)
    with any_database.transaction() as tx:
        for step, epochs_complete in [(2, 0), (5, 0), (7, 0), (10, 1), (12, 1), (14, 1), (20, 2), (30, 3)]:
            making.checkpoint(tx, job, step, epoch=epochs_complete)
        kept = [c.step_number for c in jobs.list_checkpoints(tx, job.project_id, job.id).data]
        assert kept == [30, 20, 14, 10]
        making.checkpoint(tx, job, 40, epoch=4)
        assert [c.step_number for c in jobs.list_checkpoints(tx, job.project_id, job.id).data] == [40, 30, 20]
        assert len(models.list_ready(tx, job.project_id)) == 3


def test_a_checkpoint_whose_model_the_owner_deleted_still_gives_way(database: Database) -> None:
    job = making.run(database)
    with database.transaction() as tx:
        first = making.checkpoint(tx, job, 1)
        models.delete(tx, job.project_id, first.model_name)
        for step in (2, 3, 4):
            making.checkpoint(tx, job, step)
        assert [c.step_number for c in jobs.list_checkpoints(tx, job.project_id, job.id).data] == [4, 3, 2]


def test_a_step_that_is_saved_again_changes_nothing(database: Database) -> None:
    job = making.run(database)
    with database.transaction() as tx:
        first = making.checkpoint(tx, job, 1)
        assert making.checkpoint(tx, job, 1) is None
        assert jobs.list_checkpoints(tx, job.project_id, job.id).data == [first]
        assert [model.id for model in models.list_ready(tx, job.project_id)] == [first.model_name]


def test_the_final_model_replaces_a_checkpoint_of_the_same_step(database: Database) -> None:
    job = making.run(database)
    with database.transaction() as tx:
        first = making.checkpoint(tx, job, 8)
        making.finalize(tx, job, step=8)
        assert publish.succeed(tx, job.id)
    done = making.look(database, job.id)
    with database.read() as tx:
        assert [c.model_name for c in jobs.list_checkpoints(tx, job.project_id, job.id).data] == [done.fine_tuned_model]
        with pytest.raises(ModelNotFound):
            models.get(tx, job.project_id, first.model_name)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_model_that_never_answered_is_withdrawn(any_database: Database, end: str) -> None:
    job = making.run(any_database)
    with any_database.transaction() as tx:
        saved = making.checkpoint(tx, job, 4)
        making.finalize(tx, job, step=8)
    with any_database.transaction() as tx:
        if end == "cancel":
            jobs.cancel(tx, job.project_id, job.id)
        else:
            assert jobs.fail_unclaimed(tx, job.id, BROKE, from_status=JobStatus.FINALIZING)
        assert publish.withdraw_unpublished(tx) == 1
        assert publish.withdraw_unpublished(tx) == 0
        assert not publish.succeed(tx, job.id)
    ended = making.look(any_database, job.id)
    assert (ended.fine_tuned_model, ended.result_file, ended.trained_tokens) == (None, None, None)
    with any_database.read() as tx:
        assert [model.id for model in models.list_ready(tx, job.project_id)] == [saved.model_name]
        assert jobs.list_checkpoints(tx, job.project_id, job.id).data == [saved]


def test_models_that_still_wait_are_not_withdrawn(database: Database) -> None:
    job = making.bring(database, JobStatus.FINALIZING)
    with database.transaction() as tx:
        assert publish.withdraw_unpublished(tx) == 0
        assert publish.succeed(tx, job.id)


def test_a_stale_worker_leaves_no_trace_of_its_end_of_training(database: Database) -> None:
    job = making.run(database)
    with database.transaction() as tx:
        interruptions.hand_back(tx, job.id, job.fence)
    again = making.claim(database, worker="worker-2")
    assert again is not None
    with pytest.raises(LeaseLost), database.transaction() as tx:
        making.finalize(tx, job)
    with database.transaction() as tx:
        assert files.list_page(tx, job.project_id, purpose="fine-tune-results").data == []
        assert jobs.last_checkpoint(tx, job.id) is None
        making.finalize(tx, again)


def test_of_a_whole_model_only_the_final_one_is_published(any_database: Database) -> None:
    job = making.run(any_database, rootstock={"adapter": {"type": "full"}})
    assert job.model_kind == "full"
    with any_database.transaction() as tx:
        assert making.checkpoint(tx, job, 4) is None
        making.finalize(tx, job, step=8)
        assert publish.succeed(tx, job.id)
    with any_database.read() as tx:
        listed = jobs.list_checkpoints(tx, job.project_id, job.id).data
        ready = models.list_ready(tx, job.project_id)
    assert [checkpoint.step_number for checkpoint in listed] == [8]
    assert [(model.id, model.kind) for model in ready] == [(listed[0].model_name, "full")]
    assert not [event for event in making.said(any_database, job.id) if "Checkpoint" in event.message]


def test_a_worker_that_lost_a_whole_models_job_is_told(any_database: Database) -> None:
    job = making.run(any_database, rootstock={"adapter": {"type": "full"}})
    making.lose(any_database, job)
    with any_database.transaction() as tx, pytest.raises(LeaseLost):
        making.checkpoint(tx, job, 4)


@pytest.mark.parametrize("asked", [None, {}, {"lora_rank": 8}, {"adapter": {"type": "qlora"}}, {"adapter": None}])
def test_other_jobs_make_adapters(any_database: Database, asked: dict[str, object] | None) -> None:
    job = making.run(any_database, rootstock=asked)
    with any_database.transaction() as tx:
        made = making.checkpoint(tx, job, 4)
        assert models.get(tx, job.project_id, made.model_name).kind == job.model_kind == "lora"
