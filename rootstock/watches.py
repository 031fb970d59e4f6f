"""Watches: which tuned model or alias is compared with which training set. They live as long as model and file do.

A watch sees only what its own project asks. Knows nothing about HTTP, nor how calls are compared.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import aliases, db, files, idempotency, ids, models, paging, tables
from rootstock.db import Tx
from rootstock.errors import FileNotFound, InvalidValue, ModelNotFound, NotFound
from rootstock.paging import Order
from rootstock.records import Caller, ModelState, Page

MOST = 100
"""Watches of one project."""

PROFILING, WATCHING, FAILED = "profiling", "watching", "failed"

_watches, _counts, _alarms = tables.watches, tables.watch_counts, tables.watch_alarms


@dataclass(frozen=True, slots=True)
class WatchRecord:
    """A row of `watches`."""

    seq: int
    id: str
    project_id: str
    alias: str | None  # only what is asked under this name
    model: str
    file_id: str
    file_chosen: bool
    status: str  # profiling | watching | failed
    reason: str | None
    generation: int
    profile_after: float
    examples: int | None  # of the training set that were read
    sample_rate: float
    store_samples: bool
    created_at: float


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """A row of `watch_alarms`: what was found, and the calls behind it where samples are stored."""

    seq: int
    id: str
    watch_id: str
    project_id: str
    kind: str
    found: dict[str, Any]
    cluster: dict[str, Any] | None
    created_at: float


def create(
    tx: Tx, caller: Caller, name: str, *, file_id: str | None, sample_rate: float, store_samples: bool
) -> WatchRecord:
    """Watch a tuned model of the project, or what is asked under one of its aliases.

    The reference is the file `file_id`, or the one that the model was trained on. Raises `ModelNotFound` (param
    `model`), `FileNotFound` (param `file`) and `InvalidValue` for what is watched already or cannot be.
    """
    idempotency.lock(tx, caller.project_id)  # or two at once would both find nothing there
    alias, model = _meant(tx, caller.project_id, name)
    same = [_watches.c.project_id == caller.project_id, _watches.c.model == model, _watches.c.alias == alias]
    if alias is None:
        same[-1] = _watches.c.alias.is_(None)
    if found := tx.scalar(sa.select(_watches.c.id).where(*same, *_living())):
        raise InvalidValue(f"'{name}' is watched already, by {found}. Delete that watch first.", param="model")
    count = tx.scalar(sa.select(sa.func.count()).select_from(_watches).where(same[0], *_living()))
    if (count or 0) >= MOST:
        raise InvalidValue(f"The project has {MOST} watches already, and it cannot have more.", param="model")
    reference = _reference(tx, caller.project_id, model, file_id)
    row = tx.execute(
        _watches.insert()
        .values(
            id=ids.new("watch_"),
            project_id=caller.project_id,
            alias=alias,
            model=model,
            file_id=reference,
            file_chosen=file_id is not None,
            status=PROFILING,
            generation=1,
            profile_after=0.0,
            sample_rate=sample_rate,
            store_samples=store_samples,
            created_at=db.now(),
        )
        .returning(_watches)
    ).one()
    return _record(row)


def get(tx: Tx, project_id: str, watch_id: str) -> WatchRecord:
    """The project's watch. Raises `NotFound` when it never was, has ended, or belongs to another project."""
    row = None
    if ids.is_plain(watch_id):
        mine = [_watches.c.project_id == project_id, _watches.c.id == watch_id]
        row = tx.execute(sa.select(_watches).where(*mine, *_living())).one_or_none()
    if row is None:
        raise NotFound(f"No watch found with id '{watch_id[:64]}'.", param="watch_id")
    return _record(row)


def list_page(tx: Tx, project_id: str, *, limit: int, after: str | None, order: Order = "desc") -> Page[WatchRecord]:
    """The project's watches. Raises `InvalidValue` (param `after`) for an unknown cursor."""
    mine = [_watches.c.project_id == project_id]
    return paging.page(tx, _watches, mine, shown=_living(), order=order, limit=limit, after=after, build=_record)


def delete(tx: Tx, project_id: str, watch_id: str) -> None:
    """End the watch, with all that it kept. Raises `NotFound`, also on the second call."""
    erase(tx, [get(tx, project_id, watch_id).id])


def alarms_page(
    tx: Tx, project_id: str, watch_id: str, *, limit: int, after: str | None, order: Order = "desc"
) -> Page[AlarmRecord]:
    """The alarms of a watch, newest first. Raises `NotFound`, and `InvalidValue` for the cursor."""
    of = [_alarms.c.watch_id == get(tx, project_id, watch_id).id]
    return paging.page(tx, _alarms, of, order=order, limit=limit, after=after, build=_alarm)


def alarm(tx: Tx, project_id: str, alarm_id: str) -> AlarmRecord:
    """One alarm. Raises `NotFound`."""
    row = None
    if ids.is_plain(alarm_id):
        mine = [_alarms.c.project_id == project_id, _alarms.c.id == alarm_id]
        query = sa.select(_alarms).join(_watches, _watches.c.id == _alarms.c.watch_id)
        row = tx.execute(query.where(*mine, *_living())).one_or_none()
    if row is None:
        raise NotFound(f"No alarm found with id '{alarm_id[:64]}'.", param="alarm_id")
    return _alarm(row)


def erase(tx: Tx, watch_ids: list[str]) -> int:
    """Remove watches with their counts, samples and alarms; how many there were."""
    for table in (_alarms, _counts):
        tx.execute(table.delete().where(table.c.watch_id.in_(watch_ids)))
    return tx.execute(_watches.delete().where(_watches.c.id.in_(watch_ids))).rowcount


def end(tx: Tx, limit: int) -> int:
    """Remove the watches whose model, alias or file is gone; how many."""
    follow(tx)
    return erase(tx, list(tx.scalars(sa.select(_watches.c.id).where(sa.not_(sa.and_(*_living()))).limit(limit))))


def follow(tx: Tx) -> int:
    """Let watches of aliases follow them: the training set of the model behind the name is the new reference.

    A watch whose alias moved to a model that this project did not train, or whose file is gone, counts nothing until
    the alias moves again. How many followed.
    """
    named = tables.aliases
    query = sa.select(_watches, named.c.model.label("target")).join(
        named, (named.c.project_id == _watches.c.project_id) & (named.c.name == _watches.c.alias)
    )
    moved = 0
    for row in tx.execute(query.where(named.c.deleted_at.is_(None), named.c.model != _watches.c.model)).all():
        try:
            file_id = _reference(tx, row.project_id, row.target, row.file_id if row.file_chosen else None)
        except (ModelNotFound, FileNotFound, InvalidValue):
            continue
        values: dict[str, Any] = {"model": row.target}
        if not row.file_chosen:
            values |= _anew(file_id, row.generation)
        one = [_watches.c.id == row.id, _watches.c.generation == row.generation, _watches.c.model == row.model]
        moved += tx.execute(_watches.update().where(*one).values(**values)).rowcount
    return moved


def watching(tx: Tx) -> list[WatchRecord]:
    """All watches that count calls, of all projects."""
    return [_record(row) for row in tx.execute(sa.select(_watches).where(_watches.c.status == WATCHING, *_living()))]


def claim_profiling(tx: Tx, lease_seconds: float) -> WatchRecord | None:
    """A watch whose reference is to be read now, by the caller alone for that long."""
    due = [_watches.c.status == PROFILING, _watches.c.profile_after <= db.now()]
    row = tx.execute(sa.select(_watches).where(*due, *_living()).order_by(_watches.c.profile_after).limit(1)).first()
    if row is None:
        return None
    mine = _watches.update().where(_watches.c.id == row.id, _watches.c.profile_after == row.profile_after, *due)
    claimed = tx.execute(mine.values(profile_after=db.now() + lease_seconds).returning(_watches)).one_or_none()
    return None if claimed is None else _record(claimed)


def renew_profiling(tx: Tx, watch: WatchRecord, lease_seconds: float) -> bool:
    """Hold the claim on (with 0: hand it back); false when there is nothing to be read any more."""
    waiting = _watches.update().where(*_same(watch), _watches.c.status == PROFILING)
    return tx.execute(waiting.values(profile_after=db.now() + lease_seconds)).rowcount == 1


def profiled(tx: Tx, watch: WatchRecord, *, profile: bytes, state: bytes, examples: int) -> bool:
    """The reference was read: count from now on. False when the watch has ended or has another reference by now."""
    begun = tx.execute(
        _watches.update()
        .where(*_same(watch), _watches.c.status == PROFILING)
        .values(status=WATCHING, reason=None, examples=examples)
    )
    if not begun.rowcount:
        return False
    tx.execute(_counts.delete().where(_counts.c.watch_id == watch.id))
    values = {"profile": profile, "state": state, "rows": {}, "calls": 0, "dropped": 0, "updated_at": db.now()}
    tx.execute(_counts.insert().values(watch_id=watch.id, generation=watch.generation, revision=0, **values))
    return True


def failed(tx: Tx, watch: WatchRecord, reason: str) -> None:
    """The reference is of no use; the watch says why and counts nothing."""
    waiting = [*_same(watch), _watches.c.status == PROFILING]
    tx.execute(_watches.update().where(*waiting).values(status=FAILED, reason=reason))


def _meant(tx: Tx, project_id: str, name: str) -> tuple[str | None, str]:
    """The alias of this name and the model behind it, or no alias and the model."""
    alias = aliases.find(tx, project_id, name)
    model = name if alias is None else alias.target.model
    try:
        return (None if alias is None else alias.name), models.get_own(tx, project_id, model).id
    except ModelNotFound as error:
        error.param = "model"
        raise


def _reference(tx: Tx, project_id: str, model: str, file_id: str | None) -> str:
    try:
        if file_id is not None:
            found = files.get(tx, project_id, file_id)
            if found.purpose != "fine-tune":
                raise InvalidValue(f"'{found.id}' is of purpose '{found.purpose}', not 'fine-tune'.", param="file")
            return found.id
        job_id = models.get_own(tx, project_id, model).job_id
        trained_on = tx.execute(sa.select(tables.jobs.c.training_file).where(tables.jobs.c.id == job_id)).scalar_one()
        return files.get(tx, project_id, trained_on).id
    except FileNotFound as error:
        if file_id is None:
            raise InvalidValue(
                f"The file that '{model}' was trained on is deleted, so there is nothing to compare with: name "
                "one of purpose 'fine-tune' in 'file'.",
                param="file",
            ) from None
        error.param = "file"
        raise


def _anew(file_id: str, generation: int) -> dict[str, Any]:
    anew = {"file_id": file_id, "generation": generation + 1, "status": PROFILING, "reason": None}
    return anew | {"profile_after": 0.0, "examples": None}


def _same(watch: WatchRecord) -> list[sa.ColumnElement[bool]]:
    return [_watches.c.id == watch.id, _watches.c.generation == watch.generation]


def _living() -> list[sa.ColumnElement[bool]]:
    """Model, file and alias are there: without them the watch is as good as removed, which the sweep then does."""
    model, file, alias = tables.models, tables.files, tables.aliases
    return [
        sa.exists().where(model.c.id == _watches.c.model, model.c.state == str(ModelState.READY)),
        sa.exists().where(
            file.c.id == _watches.c.file_id,
            file.c.deleted_at.is_(None),
            sa.or_(file.c.expires_at.is_(None), file.c.expires_at > db.now()),
        ),
        sa.or_(
            _watches.c.alias.is_(None),
            sa.exists().where(
                alias.c.project_id == _watches.c.project_id,
                alias.c.name == _watches.c.alias,
                alias.c.deleted_at.is_(None),
            ),
        ),
    ]


def _record(row: sa.Row[Any]) -> WatchRecord:
    return WatchRecord(**row._mapping)


def _alarm(row: sa.Row[Any]) -> AlarmRecord:
    return AlarmRecord(**row._mapping)
