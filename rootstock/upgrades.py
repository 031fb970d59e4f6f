"""Base upgrades: which tuned models stand on a base, what became of each on the next one, which aliases were moved.

A plan changes nothing. Once started, each model goes its own way, one compare-and-set after the other, so that any
process may take the next step of any of them:

    waiting -> training -> moving -> released      its aliases point to the new model
                        -> kept                    they stay, for the reason that is told
    waiting, training -> failed | cancelled        skipped: cannot be tuned again

Knows nothing about how jobs are made or judged.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, paging, tables
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, NotFound
from rootstock.records import ModelState, Page

MOST_MODELS = 1000
"""Models of one plan."""

MAX_LIMIT = 100

PLANNED, RUNNING, COMPLETED, CANCELLED = "planned", "running", "completed", "cancelled"

_upgrades = tables.upgrades
_models = tables.upgrade_models


class State(StrEnum):
    """Where one model of an upgrade is."""

    WAITING = "waiting"
    SKIPPED = "skipped"
    TRAINING = "training"
    MOVING = "moving"
    RELEASED = "released"
    KEPT = "kept"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (State.WAITING, State.TRAINING, State.MOVING)
"""States from which a model still goes on."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A row of `upgrades`."""

    seq: int
    id: str
    project_id: str
    status: str  # planned | running | completed | cancelled
    from_base: str
    to_base: str
    concurrency: int
    key_id: str
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Affected:
    """A row of `upgrade_models`: a tuned model, and what becomes of it."""

    upgrade_id: str
    number: int
    model: str
    job_id: str
    state: State
    reason: str | None
    aliases: list[str]
    estimate: dict[str, Any] | None
    new_job_id: str | None
    report: dict[str, Any] | None
    moves: list[dict[str, Any]]
    updated_at: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What a plan says of one model; `reason` is why it cannot be tuned again."""

    model: str
    job_id: str
    reason: str | None
    aliases: list[str]
    estimate: dict[str, Any] | None
    report: dict[str, Any] | None


def standing_on(tx: Tx, project_id: str, base: str, only: Collection[str] | None = None) -> list[tuple[str, str]]:
    """The project's callable tuned models on this base (no checkpoints), with the jobs that made them, oldest first.

    `only` leaves the others out. Raises `InvalidRequest` for more than `MOST_MODELS`.
    """
    tuned, jobs = tables.models, tables.jobs
    query = (
        sa.select(tuned.c.id, tuned.c.job_id)
        .join(jobs, (jobs.c.id == tuned.c.job_id) & (jobs.c.fine_tuned_model == tuned.c.id))
        .where(tuned.c.project_id == project_id, tuned.c.base == base, tuned.c.state == str(ModelState.READY))
        .order_by(tuned.c.seq)
        .limit(MOST_MODELS + 1)
    )
    if only is not None:
        query = query.where(tuned.c.id.in_([name for name in only if ids.is_plain(name)]))
    found = [(row.id, row.job_id) for row in tx.execute(query)]
    if len(found) > MOST_MODELS:
        raise InvalidRequest(
            f"More than {MOST_MODELS} models stand on '{base}': name those to plan for.", param="models"
        )
    return found


def create(
    tx: Tx, project_id: str, *, from_base: str, to_base: str, concurrency: int, key_id: str, found: Sequence[Finding]
) -> Upgrade:
    """Write a plan down. Nothing is started."""
    row = tx.execute(
        _upgrades.insert()
        .values(
            id=ids.new("upgrade_"),
            project_id=project_id,
            status=PLANNED,
            from_base=from_base,
            to_base=to_base,
            concurrency=concurrency,
            key_id=key_id,
            created_at=db.now(),
        )
        .returning(_upgrades)
    ).one()
    now = db.clock(tx)
    rows = [
        {
            "upgrade_id": row.id,
            "number": number,
            "model": one.model,
            "job_id": one.job_id,
            "state": str(State.WAITING if one.reason is None else State.SKIPPED),
            "reason": one.reason,
            "aliases": one.aliases,
            "estimate": one.estimate,
            "report": one.report,
            "moves": [],
            "updated_at": now,
        }
        for number, one in enumerate(found, 1)
    ]
    if rows:
        tx.execute(_models.insert(), rows)
    return Upgrade(**row._mapping)


def get(tx: Tx, project_id: str, upgrade_id: str) -> Upgrade:
    """The project's upgrade. Raises `NotFound`, also for another project's."""
    row = None
    if ids.is_plain(upgrade_id):
        where = [_upgrades.c.id == upgrade_id, _upgrades.c.project_id == project_id]
        row = tx.execute(sa.select(_upgrades).where(*where)).one_or_none()
    if row is None:
        raise NotFound(f"No upgrade found with id '{upgrade_id[:64]}'.", param="upgrade_id")
    return Upgrade(**row._mapping)


def list_page(tx: Tx, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[Upgrade]:
    """A page of the project's upgrades, newest first; `limit` is clamped to 1..100.

    Raises `InvalidValue` (param `after`) for a cursor that is none of them.
    """
    where = [_upgrades.c.project_id == project_id]
    limit = min(limit, MAX_LIMIT)
    return paging.page(
        tx, _upgrades, where, order="desc", limit=limit, after=after, build=lambda r: Upgrade(**r._mapping)
    )


def affected(tx: Tx, upgrade_id: str, state: State | None = None) -> list[Affected]:
    """The models of an upgrade in the order of the plan; all, or those in this state."""
    query = sa.select(_models).where(_models.c.upgrade_id == upgrade_id)
    if state is not None:
        query = query.where(_models.c.state == str(state))
    return [_affected(row) for row in tx.execute(query.order_by(_models.c.number))]


def counts(tx: Tx, upgrade_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Upgrade -> how many of its models are in which state."""
    query = (
        sa.select(_models.c.upgrade_id, _models.c.state, sa.func.count().label("many"))
        .where(_models.c.upgrade_id.in_(upgrade_ids))
        .group_by(_models.c.upgrade_id, _models.c.state)
    )
    found: dict[str, dict[str, int]] = {one: {} for one in upgrade_ids}
    for row in tx.execute(query):
        found[row.upgrade_id][row.state] = row.many
    return found


def _affected(row: sa.Row[Any]) -> Affected:
    values = dict(row._mapping)
    return Affected(**values | {"state": State(values["state"])})
