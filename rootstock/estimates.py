"""Estimates of jobs as rows: made when a job is created, held against what it took, and learned from by the next.

Knows no HTTP. What jobs of other projects took is learned from too: of those only sizes and times are read.
"""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rootstock import db, footprint, tables
from rootstock.db import Tx
from rootstock.estimating import Estimate, Past, Plan, estimate
from rootstock.estimating.model import MOST_PAST
from rootstock.records import FileRecord, JobRecord, JobStatus
from rootstock.settings import Settings

USUAL_RANK = 16

_rows = tables.estimates
_WAITING = [JobStatus.QUEUED.value, JobStatus.RUNNING.value]


def of_job(
    tx: Tx,
    settings: Settings,
    base: str,
    training: FileRecord,
    *,
    method: str,
    hyperparameters: dict[str, Any],
    rootstock: dict[str, Any],
) -> Estimate:
    """What a job on `base` with this file would take; "auto" numbers are those that a trainer would choose."""
    adapter, budget = rootstock.get("adapter") or {}, rootstock.get("budget") or {}
    share = float((rootstock.get("replay") or {}).get("share") or 0.0)  # of all that is trained on
    kind, rank = adapter.get("type") or "lora", adapter.get("rank")
    size = footprint.size_of(Path(settings.bases[base])) if base in settings.bases else None
    rank = rank if isinstance(rank, int) else min(USUAL_RANK, settings.max_lora_rank)
    waiting = sa.select(sa.func.count()).where(tables.jobs.c.base == base, tables.jobs.c.status.in_(_WAITING))
    plan = Plan(
        method=method,
        type=kind,
        file_bytes=round(training.bytes / (1 - share)),
        examples=round(int((training.check or {}).get("examples") or 0) / (1 - share)),
        n_epochs=_number(hyperparameters.get("n_epochs")),
        batch_size=_number(hyperparameters.get("batch_size")),
        budget_tokens=budget.get("max_tokens"),
        budget_seconds=60 * budget["max_minutes"] if budget.get("max_minutes") else None,
        weights=None if size is None else size.weights,
        memory_gib=None if size is None else footprint.training_gib(size, kind, rank),
        peak_flops=settings.trainer_peak_flops,
        price_per_hour=settings.price_per_gpu_hour,
        ahead=int(tx.scalar(waiting) or 0),
    )
    return estimate(plan, history(tx, base, method, kind))


def history(tx: Tx, base: str, method: str, kind: str) -> list[Past]:
    """Jobs of this base, method and type that were trained to their end, newest first."""
    query = (
        sa.select(_rows)
        .where(_rows.c.base == base, _rows.c.method == method, _rows.c.type == kind, _rows.c.ended_at.is_not(None))
        .order_by(_rows.c.ended_at.desc())
        .limit(MOST_PAST)
    )
    return [
        Past(row.file_bytes, _examples(row.estimate), row.passes, row.steps, row.tokens, row.seconds, row.memory_bytes)
        for row in tx.execute(query)
    ]


def keep(tx: Tx, job: JobRecord, file_bytes: int, made: Estimate) -> None:
    """Write down what a new job is thought to take."""
    values = {"base": job.base, "method": str(job.method["type"]), "type": job.adapter_type, "file_bytes": file_bytes}
    tx.execute(_rows.insert().values(job_id=job.id, estimate=made.as_dict(), **values))


def came_true(tx: Tx, job_id: str, memory_bytes: int | None) -> None:
    """The training of a job has ended well: write down what it took, if there is an estimate."""
    job = tx.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job_id)).one()
    attempts = tables.job_attempts
    spent = sa.select(sa.func.sum(attempts.c.ended_at - attempts.c.started_at)).where(attempts.c.job_id == job_id)
    epochs = _number((job.hyperparameters or {}).get("n_epochs")) or 1
    values = {
        "ended_at": db.now(),
        "passes": epochs * job.progress_step / max(1, job.total_steps or job.progress_step),
        "steps": job.progress_step,
        "tokens": job.trained_tokens,
        "seconds": float(tx.scalar(spent) or 0.0),
        "memory_bytes": memory_bytes,
    }
    tx.execute(_rows.update().where(_rows.c.job_id == job_id).values(**values))


def find(tx: Tx, job_id: str) -> dict[str, Any] | None:
    """What a job was thought to take and what it took, `None` for one that was never estimated.

    `{"estimate": {...}, "actual": {"trained_tokens", "steps", "seconds", "peak_memory_gib"} | None}`.
    """
    row = tx.execute(sa.select(_rows).where(_rows.c.job_id == job_id)).one_or_none()
    if row is None:
        return None
    actual = None
    if row.ended_at is not None:
        memory = None if row.memory_bytes is None else row.memory_bytes / 1024**3
        actual = {"trained_tokens": row.tokens, "steps": row.steps, "seconds": row.seconds, "peak_memory_gib": memory}
    return {"estimate": row.estimate, "actual": actual}


def _examples(made: dict[str, Any]) -> int:
    # Estimates of earlier versions do not say it.
    return int(made.get("examples") or made["steps"] * made["batch_size"] / made["n_epochs"])


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
