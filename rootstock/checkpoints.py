"""Checkpoint rows: an adapter per epoch end, and where to resume from. Knows nothing about models or objects.

`rootstock.jobs` offers what others need of this, scoped to the owner.
"""

from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, moves, paging, tables
from rootstock.db import Tx
from rootstock.records import CheckpointRecord, Page

KEPT_EPOCHS = 3
"""Checkpoints of a job's last so many epochs stay, and the best one; older ones go, as the live service does."""

LOSS, REWARD = "full_valid_loss", "full_valid_mean_reward"


def add(
    tx: Tx,
    job_id: str,
    fence: int,
    *,
    step: int,
    epoch: int,
    model_name: str,
    adapter_id: str,
    state_prefix: str | None,
    metrics: dict[str, Any],
) -> CheckpointRecord | None:
    """Record an adapter that is complete in the store; `None` when the job already has a checkpoint of this step.

    Raises `LeaseLost`.
    """
    job = moves.fenced(tx, job_id, fence, progress_at=db.now())
    checkpoints = tables.job_checkpoints
    if tx.scalar(sa.select(checkpoints.c.seq).where(checkpoints.c.job_id == job_id, checkpoints.c.step_number == step)):
        return None
    row = tx.execute(
        checkpoints.insert()
        .values(
            id=ids.new("ftckpt_"),
            job_id=job_id,
            project_id=job.project_id,
            created_at=db.now(),
            step_number=step,
            epoch=epoch,
            model_name=model_name,
            adapter_id=adapter_id,
            state_prefix=state_prefix,
            metrics=metrics,
        )
        .returning(checkpoints)
    ).one()
    return _record(row)


def list_page(tx: Tx, job_id: str, *, limit: int, after: str | None) -> Page[CheckpointRecord]:
    """A page of the job's checkpoints, newest first."""
    where = [tables.job_checkpoints.c.job_id == job_id]
    return paging.page(tx, tables.job_checkpoints, where, order="desc", limit=limit, after=after, build=_record)


def last(tx: Tx, job_id: str) -> CheckpointRecord | None:
    """The newest checkpoint, where a run resumes; `None` when it starts at the beginning."""
    found = list_page(tx, job_id, limit=1, after=None).data
    return found[0] if found else None


def of_adapter(tx: Tx, job_id: str, adapter_id: str) -> CheckpointRecord | None:
    """The job's checkpoint that holds this adapter."""
    checkpoints = tables.job_checkpoints
    row = tx.execute(
        sa.select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.adapter_id == adapter_id)
    ).one_or_none()
    return _record(row) if row else None


def prune(tx: Tx, job_id: str) -> list[CheckpointRecord]:
    """Remove what is neither among the last `KEPT_EPOCHS` epochs nor best; returns what was removed.

    Behind an epoch's end there may be checkpoints that pauses made: of those only the newest stays. Of a reinforcement
    job the `KEPT_EPOCHS` with the best validation reward stay, and the newest.
    """
    table = tables.job_checkpoints
    saved = [_record(row) for row in tx.execute(sa.select(table).where(table.c.job_id == job_id).order_by(table.c.seq))]
    gone = {checkpoint.step_number for checkpoint in saved} - _kept(saved)
    return _take(tx, job_id, table.c.step_number.in_(gone)) if gone else []


def _kept(saved: list[CheckpointRecord]) -> set[int]:
    """The steps whose checkpoints stay; `saved` are all of a job, oldest first."""
    steps = sorted(checkpoint.step_number for checkpoint in saved)
    rewards = {c.step_number: c.metrics[REWARD] for c in saved if REWARD in c.metrics}
    if rewards:
        best = sorted(rewards, key=lambda step: (-rewards[step], -step))
        return {*best[:KEPT_EPOCHS], *steps[-1:]}
    by_epoch: dict[int, list[int]] = {}
    for checkpoint in sorted(saved, key=lambda c: c.step_number):
        by_epoch.setdefault(checkpoint.epoch, []).append(checkpoint.step_number)
    kept = {step for epoch in sorted(by_epoch)[-KEPT_EPOCHS:] for step in (by_epoch[epoch][0], by_epoch[epoch][-1])}
    losses = {c.step_number: c.metrics[LOSS] for c in saved if LOSS in c.metrics}
    return kept | ({min(losses, key=lambda step: (losses[step], step))} if losses else set())


def take_step(tx: Tx, job_id: str, step: int) -> list[CheckpointRecord]:
    """Remove the job's checkpoint of this step, if there is one; returns what was removed."""
    return _take(tx, job_id, tables.job_checkpoints.c.step_number == step)


def take_adapter(tx: Tx, job_id: str, adapter_id: str | None) -> list[CheckpointRecord]:
    """Remove the job's checkpoint that holds this adapter, if there is one; returns what was removed."""
    return _take(tx, job_id, tables.job_checkpoints.c.adapter_id == adapter_id)


def forget_states(tx: Tx, job_id: str) -> None:
    """Record that the job's resume states are gone from the store."""
    tx.execute(
        tables.job_checkpoints.update().where(tables.job_checkpoints.c.job_id == job_id).values(state_prefix=None)
    )


def _take(tx: Tx, job_id: str, which: sa.ColumnElement[bool]) -> list[CheckpointRecord]:
    checkpoints = tables.job_checkpoints
    rows = tx.execute(checkpoints.delete().where(checkpoints.c.job_id == job_id, which).returning(checkpoints))
    return [_record(row) for row in rows]


def _record(row: sa.Row[Any]) -> CheckpointRecord:
    return CheckpointRecord(**row._mapping)
