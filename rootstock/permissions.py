"""Which other projects may use a tuned model: granted and withdrawn by the project that owns it.

What a grant allows is decided in `rootstock.models`. Knows nothing about HTTP.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, models, paging, tables
from rootstock.db import Tx
from rootstock.errors import InvalidValue, NotFound
from rootstock.paging import Order
from rootstock.records import Page, PermissionRecord


def grant(tx: Tx, project_id: str, model: str, guests: Sequence[str]) -> list[PermissionRecord]:
    """Let other projects use a model of `project_id`; one that may already keeps the permission it has.

    Raises `ModelNotFound`, and `InvalidValue` (param `project_ids[N]`) for a project that does not exist.
    """
    name = models.get_own(tx, project_id, model).id
    known = set(tx.scalars(sa.select(tables.projects.c.id).where(tables.projects.c.id.in_(guests))))
    for position, guest in enumerate(guests):
        if guest not in known:
            raise InvalidValue(f"No project with id '{guest[:64]}'.", param=f"project_ids[{position}]")
    return [_grant(tx, name, guest) for guest in dict.fromkeys(guests)]


def list_page(
    tx: Tx, project_id: str, model: str, *, guest: str | None, limit: int, after: str | None, order: Order
) -> Page[PermissionRecord]:
    """Who may use a model of `project_id`, all or `guest` only.

    Raises `ModelNotFound`, and `InvalidValue` (param `after`) for an unknown cursor.
    """
    permissions = tables.checkpoint_permissions
    name = models.get_own(tx, project_id, model).id
    shown = [] if guest is None else [permissions.c.project_id == guest if ids.is_plain(guest) else sa.false()]
    return paging.page(
        tx,
        permissions,
        [permissions.c.model_name == name],
        shown=shown,
        order=order,
        limit=limit,
        after=after,
        build=_record,
    )


def revoke(tx: Tx, project_id: str, model: str, permission_id: str) -> None:
    """End a permission at once. Raises `ModelNotFound` or `NotFound`, also on the second call."""
    permissions = tables.checkpoint_permissions
    name = models.get_own(tx, project_id, model).id
    gone = 0
    if ids.is_plain(permission_id):
        gone = tx.execute(
            permissions.delete().where(permissions.c.model_name == name, permissions.c.id == permission_id)
        ).rowcount
    if gone != 1:
        raise NotFound(f"No such permission: {permission_id[:64]}", param="permission_id")


def _grant(tx: Tx, model: str, guest: str) -> PermissionRecord:
    permissions = tables.checkpoint_permissions
    row = tx.execute(
        db.insert(tx, permissions)
        .values(id=ids.new("cp_"), model_name=model, project_id=guest, created_at=db.now())
        # Changes nothing, but gives back the row that is there, which a revocation may be taking away just now.
        .on_conflict_do_update(
            index_elements=[permissions.c.model_name, permissions.c.project_id], set_={"project_id": guest}
        )
        .returning(permissions)
    ).one()
    return _record(row)


def _record(row: sa.Row[Any]) -> PermissionRecord:
    return PermissionRecord(**row._mapping)
