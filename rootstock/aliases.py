"""Names of a project that stay while the models behind them change: moved, split for a canary, rolled back, never lost.

Every move is one row of history and one compare-and-set of the alias, so of two moves at the same time one comes after
the other. Knows nothing about HTTP or about how models are served.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, models, paging, tables
from rootstock.db import Tx
from rootstock.errors import AliasConflict, AliasNotFound, InvalidValue, ModelHeld, ModelNotFound, ModelNotTunable
from rootstock.paging import Order
from rootstock.records import Caller, ModelState, Page
from rootstock.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""How an alias may be called: no colon and no slash, so that it is no tuned model's name and no base's."""

MOST = 10_000
"""Aliases of one project."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where an alias points: a model, and for some share of those who ask another one."""

    model: str
    canary_model: str | None = None
    canary_percent: int = 0


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """A row of `aliases`."""

    id: str
    project_id: str
    name: str
    target: Target
    pinned: bool  # its models are to be in memory at all times
    revision: int  # +1 on every move
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A row of `alias_moves`. `before` is `None` where the alias did not exist, `after` where it was deleted."""

    id: str
    revision: int
    before: Target | None
    after: Target | None
    key_id: str
    note: str | None
    moved_at: float


def put(
    tx: Tx,
    settings: Settings,
    caller: Caller,
    name: str,
    target: Target,
    *,
    pinned: bool | None = None,
    expected_revision: int | None = None,
    note: str | None = None,
) -> AliasRecord:
    """Make the alias, or move it, for every request that begins afterwards. `pinned` stays as it is when `None`.

    Raises `InvalidValue` for a name that an alias cannot have, `ModelNotFound` for a target that the project may not
    call, `ModelHeld` for one that is not let out, and `AliasConflict` when the alias is not at `expected_revision`
    (0: does not exist).
    """
    _check_name(settings, name)
    _check_target(tx, settings, caller.project_id, target)
    found = _row(tx, caller.project_id, name)
    if found is None:
        found = _make(tx, caller.project_id, name, target)
    before = None if found.deleted_at is not None else _target(found)
    current = 0 if found.deleted_at is not None else found.revision
    if expected_revision is not None and expected_revision != current:
        raise AliasConflict(
            f"The alias '{name}' is at revision {current}, not at {expected_revision}: it was moved meanwhile."
        )
    return _move(tx, found, caller, before, target, note, pinned)


def roll_back(
    tx: Tx, settings: Settings, caller: Caller, name: str, *, revision: int | None = None, note: str | None = None
) -> AliasRecord:
    """Point the alias where it pointed before its last move, or at `revision`, which is itself a move.

    Raises `AliasNotFound`, `InvalidValue` when there is no such revision, `ModelNotFound` when what it pointed to is
    gone.
    """
    found = _living(tx, caller.project_id, name)
    moves = tables.alias_moves
    if revision is None:
        query = sa.select(moves.c.before).where(moves.c.alias_id == found.id, moves.c.revision == found.revision)
    else:
        query = sa.select(moves.c.after).where(moves.c.alias_id == found.id, moves.c.revision == revision)
    state = tx.execute(query).scalar_one_or_none()
    if state is None:
        where = "nothing before its last move" if revision is None else f"no model at revision {revision}"
        raise InvalidValue(f"The alias '{name}' pointed to {where}.", param="revision")
    target = Target(**state)
    _check_target(tx, settings, caller.project_id, target)
    return _move(tx, found, caller, _target(found), target, note)


def delete(tx: Tx, caller: Caller, name: str) -> None:
    """Refuse the name from now on; its history stays. Raises `AliasNotFound`."""
    found = _living(tx, caller.project_id, name)
    _move(tx, found, caller, _target(found), None, None)


def find(tx: Tx, project_id: str, name: str) -> AliasRecord | None:
    """The project's alias of this name, if there is one."""
    if not NAME.fullmatch(name):
        return None
    row = _row(tx, project_id, name)
    return None if row is None or row.deleted_at is not None else _record(row)


def get(tx: Tx, project_id: str, name: str) -> AliasRecord:
    """As `find`. Raises `AliasNotFound`."""
    return _record(_living(tx, project_id, name))


def list_page(tx: Tx, project_id: str, *, limit: int, after: str | None, order: Order) -> Page[AliasRecord]:
    """The project's aliases in the order of their making. Raises `InvalidValue` (param `after`)."""
    aliases = tables.aliases
    where = [aliases.c.project_id == project_id]
    living = [aliases.c.deleted_at.is_(None)]
    return paging.page(tx, aliases, where, shown=living, order=order, limit=limit, after=after, build=_record)


def list_all(tx: Tx, project_id: str) -> list[AliasRecord]:
    """Every alias of the project, oldest first."""
    aliases = tables.aliases
    query = sa.select(aliases).where(aliases.c.project_id == project_id, aliases.c.deleted_at.is_(None))
    return [_record(row) for row in tx.execute(query.order_by(aliases.c.seq))]


def history(tx: Tx, project_id: str, name: str, *, limit: int, after: str | None, order: Order) -> Page[AliasMove]:
    """Every move of the alias, those before a deletion too. Raises `AliasNotFound`, `InvalidValue` (param `after`)."""
    found = _row(tx, project_id, name) if NAME.fullmatch(name) else None
    if found is None:
        raise AliasNotFound(name)
    moves = tables.alias_moves
    return paging.page(
        tx, moves, [moves.c.alias_id == found.id], order=order, limit=limit, after=after, build=_move_record
    )


def pointing_to(tx: Tx, project_id: str, model: str) -> list[str]:
    """The names of the project's aliases that send requests to `model`."""
    aliases = tables.aliases
    query = sa.select(aliases.c.name).where(
        aliases.c.project_id == project_id,
        aliases.c.deleted_at.is_(None),
        (aliases.c.model == model) | (aliases.c.canary_model == model),
    )
    return list(tx.scalars(query.order_by(aliases.c.name)))


def pinned_adapters(tx: Tx, base: str) -> list[str]:
    """The adapters, made on `base`, behind the pinned aliases of all projects."""
    aliases, tuned = tables.aliases, tables.models
    query = (
        sa.select(tuned.c.adapter_id)
        .join(aliases, (aliases.c.model == tuned.c.id) | (aliases.c.canary_model == tuned.c.id))
        .where(aliases.c.pinned, aliases.c.deleted_at.is_(None), tuned.c.state == str(ModelState.READY))
        .where(tuned.c.kind == "lora", tuned.c.base == base)
    )
    return list(tx.scalars(query.distinct().order_by(tuned.c.adapter_id)))


def choose(alias_id: str, target: Target, who: str) -> str:
    """The model that answers a request of `who`: the same one each time, for as long as the alias stands still.

    Raising the canary's share only adds to those who get it.
    """
    if target.canary_model is None:
        return target.model
    digest = hashlib.sha256(f"{alias_id}/{who}".encode("utf-8", "replace")).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return target.canary_model if share * 100 < target.canary_percent else target.model


def _check_name(settings: Settings, name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidValue(
            f"Invalid 'name': '{name[:128]}' cannot name an alias. Use 1 to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit.",
            param="name",
        )
    try:
        models.resolve_base(settings, name)
    except ModelNotTunable:
        return
    raise InvalidValue(f"Invalid 'name': '{name}' is a name of the base model.", param="name")


def _check_target(tx: Tx, settings: Settings, project_id: str, target: Target) -> None:
    for param, model in (("model", target.model), ("canary.model", target.canary_model)):
        if model is None:
            continue
        try:
            models.resolve_base(settings, model)
        except ModelNotTunable:
            try:
                found = models.get(tx, project_id, model)
                if found.state is not ModelState.READY:
                    raise ModelNotFound(model)
                models.check_released(tx, found)
            except (ModelHeld, ModelNotFound) as error:
                error.param = param
                raise


# Asked with every request for an answer, and so built once.
_NAMED = sa.select(tables.aliases).where(
    tables.aliases.c.project_id == sa.bindparam("project"), tables.aliases.c.name == sa.bindparam("name")
)


def _row(tx: Tx, project_id: str, name: str) -> sa.Row[Any] | None:
    return tx.execute(_NAMED, {"project": project_id, "name": name}).one_or_none()


def _living(tx: Tx, project_id: str, name: str) -> sa.Row[Any]:
    row = _row(tx, project_id, name) if NAME.fullmatch(name) else None
    if row is None or row.deleted_at is not None:
        raise AliasNotFound(name)
    return row


def _make(tx: Tx, project_id: str, name: str, target: Target) -> sa.Row[Any]:
    """A row that is not an alias yet, as if deleted: the move that follows brings it to life."""
    aliases = tables.aliases
    count = tx.execute(
        sa.select(sa.func.count()).select_from(aliases).where(aliases.c.project_id == project_id)
    ).scalar_one()
    if count >= MOST:
        raise InvalidValue(f"The project has {MOST} aliases already, and it cannot have more.", param="name")
    now = db.now()
    values = {"id": ids.new("alias_"), "project_id": project_id, "name": name, "model": target.model}
    tx.execute(
        db.insert(tx, aliases)
        .values(**values, canary_percent=0, pinned=False, revision=0, created_at=now, updated_at=now, deleted_at=now)
        .on_conflict_do_nothing(index_elements=[aliases.c.project_id, aliases.c.name])
    )
    row = _row(tx, project_id, name)
    assert row is not None
    return row


def _move(
    tx: Tx,
    found: sa.Row[Any],
    caller: Caller,
    before: Target | None,
    after: Target | None,
    note: str | None,
    pinned: bool | None = None,
) -> AliasRecord:
    aliases, now, revision = tables.aliases, db.now(), found.revision + 1
    values: dict[str, Any] = {"revision": revision, "updated_at": now, "deleted_at": now if after is None else None}
    if after is not None:
        values |= {
            "model": after.model,
            "canary_model": after.canary_model,
            "canary_percent": after.canary_percent,
        }
        if before is None:
            values["created_at"] = now
        if before is None or pinned is not None:
            values["pinned"] = bool(pinned)
    moved = tx.execute(
        aliases.update()
        .where(aliases.c.id == found.id, aliases.c.revision == found.revision)
        .values(**values)
        .returning(aliases)
    ).one_or_none()
    if moved is None:
        raise AliasConflict(f"The alias '{found.name}' was moved by somebody else at the same moment. Please retry.")
    tx.execute(
        tables.alias_moves.insert().values(
            id=ids.new("move_"),
            alias_id=found.id,
            revision=revision,
            before=None if before is None else asdict(before),
            after=None if after is None else asdict(after),
            key_id=caller.key_id,
            note=note,
            moved_at=now,
        )
    )
    return _record(moved)


def _target(row: sa.Row[Any]) -> Target:
    return Target(row.model, row.canary_model, row.canary_percent)


def _record(row: sa.Row[Any]) -> AliasRecord:
    return AliasRecord(
        row.id, row.project_id, row.name, _target(row), row.pinned, row.revision, row.created_at, row.updated_at
    )


def _move_record(row: sa.Row[Any]) -> AliasMove:
    before, after = (None if state is None else Target(**state) for state in (row.before, row.after))
    return AliasMove(row.id, row.revision, before, after, row.key_id, row.note, row.moved_at)
