"""Base upgrades: which tuned models stand on a base, what became of each on the next one, which aliases were moved.

A plan changes nothing. Once started, each model goes its own way, one compare-and-set after the other, so that any
process may take the next step of any of them:

    waiting -> training -> moving -> released      its aliases point to the new model
                        -> kept                    they stay, for the reason that is told
    waiting, training -> failed | cancelled        skipped: cannot be tuned again

Knows nothing about how jobs are made or judged.
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, jobs, paging, tables
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
    tuned, made_by = tables.models, tables.jobs
    query = (
        sa.select(tuned.c.id, tuned.c.job_id)
        .join(made_by, (made_by.c.id == tuned.c.job_id) & (made_by.c.fine_tuned_model == tuned.c.id))
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


def start(tx: Tx, project_id: str, upgrade_id: str, key_id: str) -> Upgrade:
    """Let a plan begin; whose key it was starts its jobs and moves its aliases. Again: nothing changes.

    Raises `NotFound`, and `InvalidRequest` when it has ended.
    """
    planned = [_upgrades.c.id == upgrade_id, _upgrades.c.status == PLANNED]
    get(tx, project_id, upgrade_id)
    tx.execute(_upgrades.update().where(*planned).values(status=RUNNING, key_id=key_id, started_at=db.now()))
    found = get(tx, project_id, upgrade_id)
    if found.status != RUNNING:
        raise InvalidRequest(f"{upgrade_id} cannot be started: its status is already '{found.status}'. Plan anew.")
    return found


def cancel(tx: Tx, project_id: str, upgrade_id: str) -> Upgrade:
    """Take no further step and cancel the jobs that train for it; aliases that were moved stay where they are.

    Raises `NotFound`, and `InvalidRequest` when it has ended.
    """
    get(tx, project_id, upgrade_id)
    living = [_upgrades.c.id == upgrade_id, _upgrades.c.status.in_([PLANNED, RUNNING])]
    ended = {"status": CANCELLED, "finished_at": db.now()}
    row = tx.execute(_upgrades.update().where(*living).values(**ended).returning(_upgrades)).one_or_none()
    if row is None:
        status = get(tx, project_id, upgrade_id).status
        raise InvalidRequest(f"{upgrade_id} cannot be cancelled: its status is already '{status}'.")
    for one in affected(tx, upgrade_id):
        if one.state is State.TRAINING and one.new_job_id is not None:
            with contextlib.suppress(InvalidRequest):  # it has ended by itself
                jobs.cancel(tx, project_id, one.new_job_id)
        if one.state in OPEN:
            advance(tx, one, State.CANCELLED, reason="The upgrade was cancelled.")
    return Upgrade(**row._mapping)


def running(tx: Tx) -> list[str]:
    """Every upgrade that goes on, the oldest first."""
    return list(tx.scalars(sa.select(_upgrades.c.id).where(_upgrades.c.status == RUNNING).order_by(_upgrades.c.seq)))


def hold(tx: Tx, upgrade_id: str) -> Upgrade | None:
    """The upgrade, which nobody else steps or cancels before this transaction ends; `None` when it goes on no more."""
    going = [_upgrades.c.id == upgrade_id, _upgrades.c.status == RUNNING]
    row = tx.execute(_upgrades.update().where(*going).values(status=RUNNING).returning(_upgrades)).one_or_none()
    return Upgrade(**row._mapping) if row else None


def advance(tx: Tx, one: Affected, to: State, **values: Any) -> None:
    """Bring a model to a state, from the one that it was found in; does nothing when it is elsewhere by now."""
    table = _models
    where = [table.c.upgrade_id == one.upgrade_id, table.c.number == one.number, table.c.state == str(one.state)]
    tx.execute(table.update().where(*where).values(state=str(to), updated_at=db.now(), **values))


def complete(tx: Tx, upgrade: Upgrade) -> bool:
    """End an upgrade whose models all came to an end; false while one still goes on."""
    going = sa.select(_models.c.number).where(
        _models.c.upgrade_id == upgrade.id, _models.c.state.in_([str(state) for state in OPEN])
    )
    if tx.scalar(going.limit(1)) is not None:
        return False
    where = [_upgrades.c.id == upgrade.id, _upgrades.c.status == RUNNING]
    return tx.execute(_upgrades.update().where(*where).values(status=COMPLETED, finished_at=db.now())).rowcount == 1


def _affected(row: sa.Row[Any]) -> Affected:
    values = dict(row._mapping)
    return Affected(**values | {"state": State(values["state"])})
