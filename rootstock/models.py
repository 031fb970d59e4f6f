"""Tuned models: names bound for ever to one immutable adapter (or whole model), and which base a requested name means.

Knows nothing about how adapters are stored or served.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import sqlalchemy as sa

from rootstock import db, ids, tables
from rootstock.db import Tx
from rootstock.errors import ModelHeld, ModelNotFound, ModelNotTunable, PermissionDenied
from rootstock.records import JobStatus, ModelRecord, ModelState, Start
from rootstock.settings import Settings

MAX_SUFFIX_CHARS = 64


def resolve_base(settings: Settings, requested: str) -> tuple[str, str]:
    """What a requested model name means: the name that the job echoes, and the hosted base it is trained on.

    Example: `resolve_base(settings, "gpt-4o-mini")` is `("gpt-4o-mini-2024-07-18", "rootstock-tiny")`.

    Raises `ModelNotTunable` for anything that is neither the base (by public name or as configured) nor an alias.
    """
    for name, source in settings.bases.items():
        if requested in (name, source):
            return name, name
    if requested in settings.model_aliases:
        return settings.model_aliases[requested], settings.base_name
    if requested in settings.model_aliases.values():
        return requested, settings.base_name
    raise ModelNotTunable(requested[:256])


def start(tx: Tx, settings: Settings, project_id: str, requested: str) -> Start:
    """The tuned model or checkpoint of this project that a new job shall go on from.

    Raises `ModelNotTunable` when there is none of that name, it was not made on the base that is hosted here, or it is
    a whole model.
    """
    try:
        found = get(tx, project_id, requested)
    except ModelNotFound:
        raise ModelNotTunable(requested[:256]) from None
    if found.state is not ModelState.READY or found.base not in settings.bases:
        raise ModelNotTunable(requested[:256])
    if found.kind == "full":
        raise ModelNotTunable(
            found.id,
            "is a full fine-tune, which cannot be tuned further: only adapters can. Name the base model "
            f"'{found.base}', or a model that was made with rootstock.adapter.type 'lora' or 'qlora'.",
        )
    made_by = sa.select(tables.jobs.c.model, tables.jobs.c.rootstock).where(tables.jobs.c.id == found.job_id)
    snapshot, extras = tx.execute(made_by).one()
    rank = ((extras or {}).get("adapter") or {}).get("rank")
    return Start(found.id, found.adapter_id, snapshot, rank if isinstance(rank, int) else None, found.base)


def tuned_name(base: str, organization: str, suffix: str | None, short_id: str, step: int | None = None) -> str:
    """The public name of a tuned model, or with `step` of a checkpoint (which has a `short_id` of its own).

    Example: `tuned_name("org/base", "acme", "My_tune", "7p4lURel")` is `"ft:base:acme:my-tune:7p4lURel"`.
    Clients split it on colons: always four, five for a checkpoint.
    """
    name = f"ft:{_field(base.rstrip('/').rsplit('/', 1)[-1])}:{_field(organization)}:{slug(suffix or '')}:{short_id}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def slug(suffix: str) -> str:
    """A suffix as it appears in names: `initial_tuning` becomes `initial-tuning`; may be empty."""
    return re.sub(r"[^a-z0-9]+", "-", suffix.lower()).strip("-")[:MAX_SUFFIX_CHARS].rstrip("-")


def register(
    tx: Tx,
    *,
    name: str,
    project_id: str,
    job_id: str,
    base: str,
    adapter_id: str,
    state: ModelState,
    kind: Literal["lora", "full"] = "lora",
) -> ModelRecord:
    """Bind a name to an adapter. Neither may ever be bound again; the tables hold that."""
    row = tx.execute(
        tables.models.insert()
        .values(
            id=name,
            project_id=project_id,
            job_id=job_id,
            base=base,
            adapter_id=adapter_id,
            state=str(state),
            created_at=db.now(),
            kind=kind,
        )
        .returning(tables.models)
    ).one()
    return _record(row)


def get(tx: Tx, project_id: str, name: str) -> ModelRecord:
    """The model of this name as far as the project may use it, ready or still being verified.

    Raises `ModelNotFound` when it never was, was deleted, or is another project's that has not let this one in.
    """
    return _one(tx, name, _USABLE_ONE, project_id)


def get_own(tx: Tx, project_id: str, name: str) -> ModelRecord:
    """The project's very own ready model of this name, which it may delete and let others use.

    Raises `ModelNotFound` for any other.
    """
    return _one(tx, name, _OWN_ONE, project_id)


def find(tx: Tx, name: str) -> ModelRecord | None:
    """The model, whoever's it is, unless it was deleted: for workers, never for a request."""
    row = tx.execute(sa.select(tables.models).where(tables.models.c.id == name, _LIVING)).one_or_none()
    return _record(row) if row else None


def check_released(tx: Tx, model: ModelRecord) -> None:
    """Raise `ModelHeld` for a model, or a checkpoint, that a job made whose tune is held (`rootstock.releases`)."""
    if tx.scalar(_HELD, {"job": model.job_id}) is not None:
        raise held(model)


def held(model: ModelRecord) -> ModelHeld:
    """The refusal of a model whose tune is held."""
    return ModelHeld(
        f"The model '{model.id}' is held: it is not clearly better than prompting its base, or it forgot too much. "
        f"`rootstock.release` of the job {model.job_id} says which. An owner of its project lets it out with "
        f"POST /v1/rootstock/jobs/{model.job_id}/release."
    )


def list_ready(tx: Tx, project_id: str) -> list[ModelRecord]:
    """Every model that the project may call, its own and those it was let into, oldest first."""
    query = sa.select(tables.models).where(callable_by(sa.literal(project_id)))
    return [_record(row) for row in tx.execute(query.order_by(tables.models.c.seq))]


def set_ready(tx: Tx, name: str) -> bool:
    """A model that was seen answering may be called; false when it was not waiting for that (or was deleted)."""
    changed = tx.execute(
        tables.models.update()
        .where(tables.models.c.id == name, tables.models.c.state == str(ModelState.VERIFYING))
        .values(state=str(ModelState.READY))
    )
    return changed.rowcount == 1


def delete(tx: Tx, project_id: str, name: str) -> None:
    """Refuse the model from now on, to everybody, at the owner's wish.

    Raises `ModelNotFound`, also on the second call, and `PermissionDenied` to a project that was only let in.
    """
    model = get(tx, project_id, name)
    if model.project_id != project_id:
        raise PermissionDenied(f"The model '{name}' belongs to another project, which alone may delete it.")
    if not discard(tx, model.id):
        raise ModelNotFound(name)


def discard(tx: Tx, name: str) -> bool:
    """Delete a model that we ourselves no longer keep (an old checkpoint, a failed job's); already gone is fine."""
    changed = tx.execute(
        tables.models.update()
        .where(tables.models.c.id == name, _LIVING)
        .values(state=str(ModelState.DELETED), deleted_at=db.now())
    )
    return changed.rowcount == 1


def purgeable(tx: Tx, limit: int) -> list[ModelRecord]:
    """Deleted models whose adapter may be removed from the store: no job that has not ended starts from it."""
    living = [str(status) for status in JobStatus if not status.terminal]
    needed = sa.select(tables.jobs.c.start_adapter).where(
        tables.jobs.c.start_adapter.is_not(None), tables.jobs.c.status.in_(living)
    )
    query = sa.select(tables.models).where(
        tables.models.c.state == str(ModelState.DELETED),
        tables.models.c.purged_at.is_(None),
        tables.models.c.adapter_id.not_in(needed),
    )
    return [_record(row) for row in tx.execute(query.order_by(tables.models.c.seq).limit(limit))]


def mark_purged(tx: Tx, name: str) -> None:
    """Record that the adapter of this deleted model is gone from the store."""
    tx.execute(tables.models.update().where(tables.models.c.id == name).values(purged_at=db.now()))


def _field(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


_LIVING = tables.models.c.state != str(ModelState.DELETED)


def _usable(project: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Who sees a model: the project that made it and those it let in. The one place that decides it."""
    permissions = tables.checkpoint_permissions
    let_in = sa.exists().where(permissions.c.model_name == tables.models.c.id, permissions.c.project_id == project)
    let_in = let_in.correlate_except(permissions)  # of whatever statement it becomes a part
    return (tables.models.c.project_id == project) | let_in


def callable_by(project: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Which models answer a project's requests, as far as they are not held."""
    return _usable(project) & (tables.models.c.state == str(ModelState.READY))


# Asked with every request for an answer, and so built once: to build a statement takes longer than to execute it.
_NAMED = sa.select(tables.models).where(tables.models.c.id == sa.bindparam("name"), _LIVING)
_USABLE_ONE = _NAMED.where(_usable(sa.bindparam("project", type_=sa.Text())))
_OWN_ONE = _NAMED.where(
    tables.models.c.project_id == sa.bindparam("project"), tables.models.c.state == str(ModelState.READY)
)
_HELD = sa.select(tables.releases.c.job_id).where(
    tables.releases.c.job_id == sa.bindparam("job"), tables.releases.c.held
)


def _one(tx: Tx, name: str, query: sa.Select[Any], project_id: str) -> ModelRecord:
    row = None
    if ids.is_plain(name):
        row = tx.execute(query, {"name": name, "project": project_id}).one_or_none()
    if row is None:
        raise ModelNotFound(name)
    return _record(row)


def _record(row: sa.Row[Any]) -> ModelRecord:
    return from_columns(dict(row._mapping))


def from_columns(values: Mapping[str, Any]) -> ModelRecord:
    """A model out of the values of its columns."""
    return ModelRecord(**{**values, "state": ModelState(values["state"])})
