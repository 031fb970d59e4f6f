"""Tuned models: names bound for ever to one immutable adapter, and which base a requested name means.

Knows nothing about how adapters are stored or served.
"""

import re
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, tables
from rootstock.db import Tx
from rootstock.errors import ModelNotFound, ModelNotTunable
from rootstock.records import JobStatus, ModelRecord, ModelState
from rootstock.settings import Settings

MAX_SUFFIX_CHARS = 64


def resolve_base(settings: Settings, requested: str) -> tuple[str, str]:
    """What a requested model name means: the name that the job echoes, and the hosted base it is trained on.

    Example: `resolve_base(settings, "gpt-4o-mini")` is `("gpt-4o-mini-2024-07-18", "rootstock-tiny")`.

    Raises `ModelNotTunable` for anything that is neither the base (by public name or as configured) nor an alias.
    """
    if requested in (settings.base_name, settings.base_model):
        return settings.base_name, settings.base_name
    if requested in settings.model_aliases:
        return settings.model_aliases[requested], settings.base_name
    if requested in settings.model_aliases.values():
        return requested, settings.base_name
    raise ModelNotTunable(requested[:256])


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
    tx: Tx, *, name: str, project_id: str, job_id: str, base: str, adapter_id: str, state: ModelState
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
        )
        .returning(tables.models)
    ).one()
    return _record(row)


def get(tx: Tx, project_id: str, name: str) -> ModelRecord:
    """The project's model of this name, ready or still being verified.

    Raises `ModelNotFound` when it never was, was deleted, or belongs to another project.
    """
    row = None
    if ids.is_plain(name):
        row = tx.execute(sa.select(tables.models).where(*_named(project_id, name))).one_or_none()
    if row is None:
        raise ModelNotFound(name)
    return _record(row)


def list_ready(tx: Tx, project_id: str) -> list[ModelRecord]:
    """Every model of the project that may be called, oldest first."""
    query = sa.select(tables.models).where(
        tables.models.c.project_id == project_id, tables.models.c.state == str(ModelState.READY)
    )
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
    """Refuse the model from now on, at the owner's wish.

    Raises `ModelNotFound`, also on the second call.
    """
    if not ids.is_plain(name) or not _delete(tx, _named(project_id, name)):
        raise ModelNotFound(name)


def discard(tx: Tx, name: str) -> bool:
    """Delete a model that we ourselves no longer keep (an old checkpoint, a failed job's); already gone is fine."""
    return _delete(tx, [tables.models.c.id == name, tables.models.c.state != str(ModelState.DELETED)])


def purgeable(tx: Tx, limit: int) -> list[ModelRecord]:
    """Deleted models whose adapter may be removed from the store: their job has ended and resumes from none of it."""
    terminal = [str(status) for status in JobStatus if status.terminal]
    query = (
        sa.select(tables.models)
        .join(tables.jobs, tables.jobs.c.id == tables.models.c.job_id)
        .where(
            tables.models.c.state == str(ModelState.DELETED),
            tables.models.c.purged_at.is_(None),
            tables.jobs.c.status.in_(terminal),
        )
    )
    return [_record(row) for row in tx.execute(query.order_by(tables.models.c.seq).limit(limit))]


def mark_purged(tx: Tx, name: str) -> None:
    """Record that the adapter of this deleted model is gone from the store."""
    tx.execute(tables.models.update().where(tables.models.c.id == name).values(purged_at=db.now()))


def _field(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def _named(project_id: str, name: str) -> list[sa.ColumnElement[bool]]:
    return [
        tables.models.c.project_id == project_id,
        tables.models.c.id == name,
        tables.models.c.state != str(ModelState.DELETED),
    ]


def _delete(tx: Tx, where: list[sa.ColumnElement[bool]]) -> bool:
    changed = tx.execute(
        tables.models.update().where(*where).values(state=str(ModelState.DELETED), deleted_at=db.now())
    )
    return changed.rowcount == 1


def _record(row: sa.Row[Any]) -> ModelRecord:
    values = dict(row._mapping)
    return ModelRecord(**values | {"state": ModelState(values["state"])})
