"""What spans jobs, models and files in one transaction: a checkpoint, the end of training, and success.

Objects are complete in the store before any of this is called. Knows nothing about stores, queues or vLLM.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import checkpoints, estimates, files, ids, jobs, models, tables
from rootstock.db import Tx
from rootstock.records import CheckpointRecord, JobRecord, JobStatus, ModelState

RESULT_FILENAME = "step_metrics.csv"


@dataclass(frozen=True, slots=True)
class ResultFile:
    """The results CSV that the worker has stored under `files/<id>`; take the id from `ids.new("file-")`."""

    id: str
    bytes: int
    sha256: str

    @property
    def object_key(self) -> str:
        """Where its object lies."""
        return f"files/{self.id}"


def checkpoint(
    tx: Tx,
    job: JobRecord,
    fence: int,
    *,
    adapter_id: str,
    state_prefix: str,
    step: int,
    epoch: int,
    metrics: dict[str, Any],
) -> CheckpointRecord | None:
    """Make an adapter of an epoch before the last one (or of a pause) a callable model, and the place to resume from.

    `epoch` counts the epochs that are complete. `None` when this step has a checkpoint already, or the job trains a
    whole model, of which only the final one is published: what was stored for this call is then nobody's. Older ones
    go, as `checkpoints.prune` says. Raises `LeaseLost`.
    """
    if job.model_kind == "full":
        jobs.hold(tx, job.id, fence)
        return None
    made = jobs.add_checkpoint(
        tx,
        job.id,
        fence,
        step=step,
        epoch=epoch,
        model_name=_name(tx, job, step),
        adapter_id=adapter_id,
        state_prefix=state_prefix,
        metrics=metrics,
    )
    if made is not None:
        _register(tx, job, made, ModelState.READY)
        message = f"Checkpoint created at step {step} with Snapshot ID: {made.model_name}"
        jobs.say(tx, job, message, dedupe=f"checkpoint-{step}")
    return made


def finalize(  # noqa: PLR0913 (all that a finished training leaves)
    tx: Tx,
    job: JobRecord,
    fence: int,
    *,
    adapter_id: str,
    state_prefix: str | None,
    step: int,
    epoch: int,
    metrics: dict[str, Any],
    trained_tokens: int,
    result_csv: ResultFile,
    outcome: dict[str, Any] | None = None,
) -> None:
    """Training is over: the last checkpoint, the final model (not callable yet) and the results, then let go.

    A checkpoint that was already recorded for this step gives way to the final one. `outcome` is how training ended, as
    the job shows it (`stopped_early`, `best_step`, `tokens_saved`), and what it took (`peak_memory_bytes`). Raises
    `LeaseLost`.
    """
    held = jobs.hold(tx, job.id, fence)
    if held.want == "pause":
        jobs.say(tx, job, "No step was left to pause at, the job finishes instead", dedupe=f"not-paused-{fence}")
    _discard(tx, checkpoints.take_step(tx, job.id, step))
    made = jobs.add_checkpoint(
        tx,
        job.id,
        fence,
        step=step,
        epoch=epoch,
        model_name=_name(tx, job),
        adapter_id=adapter_id,
        state_prefix=state_prefix,
        metrics=metrics,
    )
    assert made is not None
    _register(tx, job, made, ModelState.VERIFYING)
    files.create(
        tx,
        file_id=result_csv.id,
        project_id=job.project_id,
        filename=RESULT_FILENAME,
        purpose="fine-tune-results",
        size=result_csv.bytes,
        sha256=result_csv.sha256,
        object_key=result_csv.object_key,
        check=None,
    )
    if outcome and outcome.get("stopped_early"):
        saved = outcome.get("tokens_saved")
        why = outcome["stopped_early"] + (f"; {saved:,} tokens of training were saved" if saved else "")
        jobs.say(tx, job, f"Training ended early: {why}", dedupe="stopped-early")
    jobs.to_finalizing(
        tx,
        job.id,
        fence,
        adapter_id=adapter_id,
        trained_tokens=trained_tokens,
        result_file=result_csv.id,
        rootstock={**(held.rootstock or {}), **(outcome or {})},
    )
    estimates.came_true(tx, job.id, (outcome or {}).get("peak_memory_bytes"))


def succeed(tx: Tx, job_id: str) -> bool:
    """The tuned model was seen answering: name it, allow calls, and say so, all at once.

    False when the job is not (or no longer) waiting for that, so several replicas may try.
    """
    job = jobs.find(tx, job_id)
    if job is None or job.status is not JobStatus.FINALIZING or job.adapter_id is None:
        return False
    final = checkpoints.of_adapter(tx, job_id, job.adapter_id)
    if final is None or not jobs.to_succeeded(tx, job_id, model_name=final.model_name):
        return False
    models.set_ready(tx, final.model_name)
    return True


def withdraw_unpublished(tx: Tx) -> int:
    """Discard models that wait to be verified although their job ended without success; returns how many."""
    names = tx.scalars(
        sa.select(tables.models.c.id)
        .join(tables.jobs, tables.jobs.c.id == tables.models.c.job_id)
        .where(
            tables.models.c.state == str(ModelState.VERIFYING),
            tables.jobs.c.status.in_([str(JobStatus.FAILED), str(JobStatus.CANCELLED)]),
        )
    ).all()
    return sum(models.discard(tx, name) for name in names)


def _register(tx: Tx, job: JobRecord, made: CheckpointRecord, state: ModelState) -> None:
    models.register(
        tx,
        name=made.model_name,
        project_id=job.project_id,
        job_id=job.id,
        base=job.base,
        adapter_id=made.adapter_id,
        state=state,
        kind=job.model_kind,
    )
    _discard(tx, checkpoints.prune(tx, job.id))


def _discard(tx: Tx, removed: list[CheckpointRecord]) -> None:
    for old in removed:
        models.discard(tx, old.model_name)


def _name(tx: Tx, job: JobRecord, step: int | None = None) -> str:
    organization = tx.execute(
        sa.select(tables.projects.c.organization_id).where(tables.projects.c.id == job.project_id)
    ).scalar_one()
    return models.tuned_name(job.model, organization, job.suffix, ids.short(), step)
