"""What a watch has counted: calls of any number of processes added up, alarms given in the very same transaction.

Each write locks its row, so several wait for one another and each goes on from what the one before it left. Of the
calls' texts nothing is kept but, where the watch stores samples, those of events that are rising. Knows no HTTP.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, tables, webhooks
from rootstock.db import Database, Tx
from rootstock.drift import clusters, detect
from rootstock.drift.detect import Shift, State
from rootstock.drift.profile import Profile
from rootstock.drift.sample import Sample
from rootstock.errors import InvalidRequest
from rootstock.watches import WatchRecord

MOST_ROWS = 30
"""Calls under suspicion that are kept for each kind of alarm."""

SHOWN_CHARS = 600
"""Of a prompt and of an answer that is kept."""

EVENT = "rootstock.drift.alarm"

_watches, _counts, _alarms = tables.watches, tables.watch_counts, tables.watch_alarms


@dataclass(frozen=True, slots=True)
class Call:
    """A live call, and when it was (Unix seconds)."""

    sample: Sample
    at: float


@dataclass(frozen=True, slots=True)
class Counts:
    """What a watch has counted so far."""

    state: State
    calls: int
    dropped: int
    updated_at: float


class Stale(Exception):
    """The reference is another one by now: these calls were looked at in vain."""


def read(tx: Tx, watch: WatchRecord) -> Counts | None:
    """What was counted; `None` as long as the reference was not read."""
    told = _counts.c.state, _counts.c.calls, _counts.c.dropped, _counts.c.updated_at
    row = tx.execute(sa.select(*told).where(*_same(watch))).one_or_none()
    return None if row is None else Counts(State.unpack(row.state), row.calls, row.dropped, row.updated_at)


def profile(tx: Tx, watch: WatchRecord) -> Profile:
    """The reference that calls are compared with. Raises `Stale`."""
    found = tx.scalar(sa.select(_counts.c.profile).where(*_same(watch)))
    if found is None:
        raise Stale
    return Profile.unpack(found)


def add(database: Database, watch: WatchRecord, reference: Profile, calls: Sequence[Call], dropped: int) -> list[str]:
    """Count calls, and `dropped` others that were not looked at; the kinds of the alarms that this gave.

    Raises `Stale`, and `Unavailable` when the database is away; nothing is counted then.
    """
    marked = [(call, reference.marks(call.sample)) for call in calls]
    with database.transaction() as tx:
        return _add(tx, watch, reference, marked, dropped)


def rearm(tx: Tx, watch: WatchRecord, *, accept: bool) -> None:
    """Let the watch give alarms of all kinds again; with `accept`, for what differs from the latest calls.

    Raises `InvalidRequest` where nothing was counted yet, or too little to accept.
    """
    row = tx.execute(sa.select(_counts).where(*_same(watch)).with_for_update()).one_or_none()
    if row is None:
        raise InvalidRequest("The watch has no reference yet: wait until its status is 'watching'.")
    state = State.unpack(row.state)
    try:
        detect.rearm(state, Profile.unpack(row.profile).events, accept=accept)
    except ValueError as error:
        raise InvalidRequest(f"The recent calls cannot be accepted: {error}.", param="accept") from None
    changed = _counts.update().where(*_same(watch))
    tx.execute(changed.values(state=state.pack(), rows={}, revision=row.revision + 1, updated_at=db.now()))


def _add(tx: Tx, watch: WatchRecord, reference: Profile, marked: Sequence[tuple[Call, Any]], dropped: int) -> list[str]:
    before = sa.select(_counts.c.revision, _counts.c.state, _counts.c.rows).where(*_same(watch))
    row = tx.execute(before.with_for_update()).one_or_none()
    if row is None:
        raise Stale
    state, rows = State.unpack(row.state), dict(row.rows)
    given: list[tuple[Shift, list[dict[str, Any]]]] = []
    for call, marks in marked:
        shifts = detect.advance(state, reference.events, marks, call.at)
        if watch.store_samples:
            rows = _kept(rows, state, reference, call, marks, shifts)
        given += [(shift, rows.pop(shift.kind, [])) for shift in shifts]
    values: dict[str, Any] = {"calls": _counts.c.calls + len(marked), "dropped": _counts.c.dropped + dropped}
    values |= {"state": state.pack(), "rows": rows, "revision": row.revision + 1, "updated_at": db.now()}
    tx.execute(_counts.update().where(*_same(watch)).values(**values))
    for shift, behind in given:
        _give(tx, watch, reference, shift, behind)
    return [shift.kind for shift, _ in given]


def _kept(
    rows: dict[str, Any], state: State, reference: Profile, call: Call, marks: Any, shifts: Sequence[Shift]
) -> dict[str, Any]:
    """The calls under suspicion: those that show an event whose score is rising, for as long as it stays up."""
    suspected = detect.threshold(len(reference.events)) / 8
    just = {shift.kind for shift in shifts}
    shown: dict[str, list[int]] = {}
    for place in ((marks == 1) & (state.scores >= suspected)).nonzero()[0]:
        kind = reference.events[place].kind
        if kind not in state.silent or kind in just:
            shown.setdefault(kind, []).append(int(place))
    for kind, places in shown.items():
        text = {"prompt": _shown(call.sample.prompt), "answer": _shown(call.sample.answer or "")}
        rows = rows | {kind: [*rows.get(kind, []), {"at": call.at, "places": places} | text][-MOST_ROWS:]}
    up = set((state.scores > 0).nonzero()[0].tolist())
    return {kind: left for kind, old in rows.items() if (left := [row for row in old if up & set(row["places"])])}


def _give(tx: Tx, watch: WatchRecord, reference: Profile, shift: Shift, rows: list[dict[str, Any]]) -> None:
    cluster = None
    if watch.store_samples:
        related = set(shift.related)
        rows = [row for row in rows if row["at"] >= shift.began_at and related & set(row["places"])]
        found = clusters.newest([row["prompt"] for row in rows], reference.words)
        kept = [{name: rows[place][name] for name in ("at", "prompt", "answer")} for place in found.order]
        cluster = {"terms": found.terms, "alike": found.alike, "rows": kept}
    told = asdict(shift)
    del told["related"]
    alarm_id = ids.new("alarm_")
    tx.execute(
        _alarms.insert().values(
            id=alarm_id,
            watch_id=watch.id,
            project_id=watch.project_id,
            kind=shift.kind,
            found=told,
            cluster=cluster,
            created_at=db.now(),
        )
    )
    webhooks.emit(tx, watch.project_id, EVENT, alarm_id)


def _shown(text: str) -> str:
    # What a model says may hold what no database does.
    return text[:SHOWN_CHARS].replace("\0", " ").encode("utf-8", "replace").decode()


def _same(watch: WatchRecord) -> list[sa.ColumnElement[bool]]:
    return [_counts.c.watch_id == watch.id, _counts.c.generation == watch.generation]
