"""What a job that trains a whole model leaves behind: states while it runs, one verified model at the end."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch
from transformers import Qwen3ForCausalLM

from rootstock import adapters, jobs, models, publish, tables
from rootstock.errors import JobFailure
from rootstock.records import JobRecord, JobStatus
from tests.trainer.harness import Deployment
from trainer import recipe
from trainer.base import Base
from trainer.checkpoint import STATE, STATE_TENSORS
from trainer.loop import Checkpoint, Result, Verdict
from trainer.worker.integrations import Followers
from trainer.worker.lease import Lease
from trainer.worker.report import JobReporter, resume_state

FULL = {"adapter": {"type": "full"}}


@pytest.fixture
def job(deployment: Deployment) -> JobRecord:
    queued = deployment.queue()
    with deployment.db.transaction() as tx:
        tx.execute(sa.update(tables.jobs).where(tables.jobs.c.id == queued.id).values(rootstock=FULL))
    return deployment.claim()


@pytest.fixture
def lease(deployment: Deployment, job: JobRecord) -> Iterator[Lease]:
    with Lease(deployment.db, job, lease_seconds=10, heartbeat_seconds=0.5) as held:
        yield held


@pytest.fixture
def reporter(deployment: Deployment, job: JobRecord, base: Base, lease: Lease) -> Iterator[JobReporter]:
    facts = recipe.Facts(examples=10, hidden_size=64, context_tokens=256, dtype="float32", max_rank=16, start=None)
    chosen = recipe.resolve({"n_epochs": 2}, facts, seed=job.seed, method="supervised")
    with (
        Followers(deployment.settings, deployment.db, job, chosen) as followers,
        JobReporter(job, chosen, base, deployment.store, lease, lambda: False, followers) as made,
    ):
        yield made


Save = Callable[..., Checkpoint]


@pytest.fixture
def save(base_folder: Path, tmp_path: Path) -> Save:
    """A point of a run, as a trainer of whole models would write it."""
    numbers = itertools.count()

    def write(step: int, *, final: bool = False, change: float = 0.01) -> Checkpoint:
        folder = tmp_path / f"saved-{next(numbers)}"
        model = Qwen3ForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(change)
        model.save_pretrained(folder / "model")
        (folder / "state").mkdir()
        (folder / "state" / STATE_TENSORS).write_bytes(b"moments")
        (folder / "state" / STATE).write_text(str(step))
        return Checkpoint(step, step, folder / "model", folder / "state", {"train_loss": 0.5}, final, [])

    return write


def ended(final: Checkpoint) -> Result:
    """The result of a run that got to its end."""
    told = {"verdict": Verdict.GO, "history": [{"step": 6, "train_loss": 0.5}], "trained_tokens": 99, "final": final}
    return Result(**dict.fromkeys((field.name for field in fields(Result)), None) | {"passages": []} | told)


def stored(deployment: Deployment, prefix: str) -> list[str]:
    return sorted({"/".join(key.split("/")[1:-1]) for key in deployment.store.list(prefix)})


def test_checkpoints_are_states_only_and_the_newest_two_are_kept(
    deployment: Deployment, job: JobRecord, lease: Lease, reporter: JobReporter, save: Save, tmp_path: Path
) -> None:
    for step in (3, 6, 9, 12):
        reporter.checkpoint(save(step))
    reporter.settle()
    assert deployment.store.list("adapters/") == []
    assert [int(name.split("-")[-2]) for name in stored(deployment, f"states/{job.id}/")] in ([9, 12], [12, 9])
    with deployment.db.read() as tx:
        assert jobs.list_checkpoints(tx, deployment.project, job.id).data == []
        assert models.list_ready(tx, deployment.project) == []
    resumed = resume_state(lease, deployment.store, tmp_path / "resumed")
    assert resumed is not None
    assert ((resumed / STATE).read_text(), (resumed / STATE_TENSORS).read_bytes()) == ("12", b"moments")


def test_the_final_model_is_stored_whole_and_published(
    deployment: Deployment, job: JobRecord, base_folder: Path, reporter: JobReporter, save: Save, tmp_path: Path
) -> None:
    final = save(6, final=True)
    reporter.checkpoint(final)
    reporter.finish(ended(final))
    done = deployment.job(job.id)
    assert done.status is JobStatus.FINALIZING and done.adapter_id is not None
    manifest = adapters.fetch_tree(deployment.store, done.adapter_id, tmp_path / "fetched")
    assert (manifest.kind, manifest.rank, manifest.base) == ("full", None, "tiny-random")
    adapters.verify_full(tmp_path / "fetched", manifest, base_folder)
    with deployment.db.transaction() as tx:
        assert publish.succeed(tx, job.id)
        assert [model.kind for model in models.list_ready(tx, deployment.project)] == ["full"]


@pytest.mark.parametrize("change", [float("nan"), float("inf"), 1e6])
def test_weights_that_cannot_be_served_end_the_job_as_diverged(
    change: float, reporter: JobReporter, save: Save
) -> None:
    final = save(6, final=True, change=change)
    with pytest.raises(JobFailure) as caught:
        reporter.finish(ended(final))
    assert (caught.value.code, caught.value.param) == ("training_diverged", "hyperparameters")
