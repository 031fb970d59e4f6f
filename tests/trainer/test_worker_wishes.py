"""What an owner can ask of a worker beside training: to pause, to go on from a tuned model, another rank."""

import pytest

from rootstock import adapters, interruptions, jobs, models, publish
from rootstock.records import JobRecord, JobStatus, Start
from rootstock.sweep import Sweep
from tests.trainer.harness import Deployment, conversation
from trainer.base import Base
from trainer.worker.job import run_job
from trainer.worker.lease import Lease


def run_until(deployment: Deployment, base: Base, job: JobRecord, step: int, *calls: str) -> None:
    """Train until the worker has heard what its owner asks while it is at `step`."""
    count = iter(range(1, 100))

    def heard(lease: Lease) -> bool:
        # As in life, but for the time: the lease's thread would ask the row within half a second.
        if next(count) == step:
            for call in calls:
                with deployment.db.transaction() as tx:
                    getattr(interruptions, call)(tx, deployment.project, job.id)
        with lease.transaction():
            return lease.wish != "run"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lease, "to_pause", property(heard))
        run_job(deployment.place(base), deployment.claim())


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_paused_job_leaves_a_model_frees_its_worker_and_ends_like_one_never_paused(
    deployment: Deployment, base: Base, step: int
) -> None:
    whole = deployment.queue()
    run_job(deployment.place(base), deployment.claim())
    job = deployment.queue()
    run_until(deployment, base, job, step, "pause")
    assert deployment.job(job.id).status is JobStatus.PAUSED
    assert deployment.steps(job.id) == list(range(1, step + 1))
    with deployment.db.read() as tx:
        saved = jobs.list_checkpoints(tx, deployment.project, job.id).data
        assert saved[0].step_number == step
        assert saved[0].model_name.endswith(f":ckpt-step-{step}")
        assert saved[0].model_name in [model.id for model in models.list_ready(tx, deployment.project)]
    said = [event.message for event in deployment.events(job.id)]
    assert said[-2:] == [f"Checkpoint created at step {step} with Snapshot ID: {saved[0].model_name}", "Job paused"]
    other = deployment.queue()  # the worker is free
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(other.id).status is JobStatus.FINALIZING
    with deployment.db.transaction() as tx:
        interruptions.resume(tx, deployment.project, job.id)
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    assert deployment.steps(job.id) == [1, 2, 3, 4, 5, 6]
    tables = [deployment.store.get_bytes(f"files/{deployment.job(one.id).result_file}") for one in (job, whole)]
    assert tables[0] == tables[1]


def test_resumed_at_once_the_job_is_queued_with_the_state_it_had(deployment: Deployment, base: Base) -> None:
    job = deployment.queue()
    run_until(deployment, base, job, 2, "pause", "resume")
    assert deployment.job(job.id).status is JobStatus.QUEUED
    run_job(deployment.place(base), deployment.claim())
    assert deployment.steps(job.id) == [1, 2, 3, 4, 5, 6]


def test_a_pause_at_the_last_step_comes_too_late(deployment: Deployment, base: Base) -> None:
    job = deployment.queue()
    run_until(deployment, base, job, 6, "pause")
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    assert deployment.events(job.id)[-1].message == "No step was left to pause at, the job finishes instead"


def published(deployment: Deployment, job: JobRecord) -> Start:
    with deployment.db.transaction() as tx:
        assert publish.succeed(tx, job.id)
        name = jobs.get(tx, deployment.project, job.id).fine_tuned_model
        assert name is not None
        return models.start(tx, deployment.settings, deployment.project, name)


def test_a_job_goes_on_from_a_tuned_model_even_when_that_was_deleted_meanwhile(
    deployment: Deployment, base: Base
) -> None:
    lines = [conversation(n) for n in range(10)]
    whole = {"n_epochs": 2, "batch_size": 10}
    parent = deployment.queue(lines, validation=lines, rank=8, **whole)
    run_job(deployment.place(base), deployment.claim())
    start = published(deployment, parent)
    assert start.rank == 8
    child = deployment.queue(lines, start=start, **whole)
    with deployment.db.transaction() as tx:
        models.delete(tx, deployment.project, start.model)
        assert models.purgeable(tx, 10) == []
    run_job(deployment.place(base), deployment.claim())
    done = deployment.job(child.id)
    assert done.status is JobStatus.FINALIZING
    assert (done.rootstock or {})["adapter"]["rank"] == 8
    end = next(e.data for e in deployment.events(parent.id)[::-1] if e.data)
    begin = next(e.data for e in deployment.events(child.id) if e.data)
    # The whole data is one batch, and a step's loss is taken before its update.
    assert begin["train_loss"] == pytest.approx(end["full_valid_loss"], rel=1e-5)
    assert done.adapter_id is not None
    manifest = adapters.read_manifest(deployment.store, done.adapter_id)
    assert (manifest.rank, manifest.recipe["start"]) == (8, start.adapter)
    published(deployment, child)
    with deployment.db.read() as tx:
        assert [model.id for model in models.purgeable(tx, 10)] == [start.model]


def test_paused_it_still_needs_the_adapter_it_started_from(deployment: Deployment, base: Base) -> None:
    parent = deployment.queue()
    run_job(deployment.place(base), deployment.claim())
    start = published(deployment, parent)
    child = deployment.queue(start=start)
    run_until(deployment, base, child, 2, "pause")
    with deployment.db.transaction() as tx:
        models.delete(tx, deployment.project, start.model)
        assert models.purgeable(tx, 10) == []
        interruptions.resume(tx, deployment.project, child.id)
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(child.id).status is JobStatus.FINALIZING
    assert deployment.steps(child.id) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("fault", ["gone", "other base"])
def test_a_start_that_cannot_be_used_fails_the_job_and_names_the_model(
    deployment: Deployment, base: Base, fault: str
) -> None:
    parent = deployment.queue()
    run_job(deployment.place(base), deployment.claim())
    start = published(deployment, parent)
    child = deployment.queue(start=start)
    if fault == "gone":
        deployment.store.delete_prefix(f"adapters/{start.adapter}/")
    else:
        key = f"adapters/{start.adapter}/manifest.json"
        changed = deployment.store.get_bytes(key).replace(base.fingerprint.encode(), b"0" * 64)
        deployment.store.put_bytes(key, changed)
    run_job(deployment.place(base), deployment.claim())
    error = deployment.job(child.id).error
    assert error is not None
    assert (error["code"], error["param"]) == ("model_not_available", "model")
    assert start.model in error["message"]


def test_the_rank_that_was_asked_for_is_trained_and_an_automatic_one_shown(deployment: Deployment, base: Base) -> None:
    for rank, made in ((8, 8), (None, 16)):
        job = deployment.queue(rank=rank, n_epochs=1)
        run_job(deployment.place(base), deployment.claim())
        done = deployment.job(job.id)
        assert (done.rootstock or {})["adapter"]["rank"] == made
        assert done.adapter_id is not None
        assert adapters.read_manifest(deployment.store, done.adapter_id).rank == made


def test_only_the_last_three_epochs_stay_and_the_rest_leaves_the_store_while_the_job_runs(
    deployment: Deployment, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = deployment.queue(n_epochs=5)
    monkeypatch.setattr("rootstock.sweep.GRACE_SECONDS", -1.0)
    run_until(deployment, base, job, 13, "pause")
    with deployment.db.read() as tx:
        saved = jobs.list_checkpoints(tx, deployment.project, job.id).data
    assert [c.step_number for c in saved] == [13, 12, 9, 6]
    sweep = Sweep(deployment.db, deployment.store, None, deployment.settings)  # type: ignore[arg-type]
    assert sweep.run_once()["purge_model"] == 1
    kept = {c.adapter_id for c in saved}
    assert {key.split("/")[1] for key in deployment.store.list("adapters/")} == kept
    assert {key.split("/")[2] for key in deployment.store.list("states/")} == kept
    with deployment.db.transaction() as tx:
        interruptions.resume(tx, deployment.project, job.id)
    run_job(deployment.place(base), deployment.claim())
    with deployment.db.transaction() as tx:
        assert publish.succeed(tx, job.id)
        saved = jobs.list_checkpoints(tx, deployment.project, job.id).data
        ready = [model.id for model in models.list_ready(tx, deployment.project)]
    assert [c.step_number for c in saved] == [15, 13, 12, 9]
    assert saved[0].model_name == deployment.job(job.id).fine_tuned_model
    assert {c.model_name for c in saved} == set(ready)
