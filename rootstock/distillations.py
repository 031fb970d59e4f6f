"""Distillations: everything that may happen to one, each as one compare-and-set on the database's clock.

The row is the truth, as with batches: a worker owns it through a lease and a fence, and what a teacher answered is a
row, so nothing is asked twice. A foreign teacher's key lies in the row for as long as the run lasts; the move that ends
it wipes the key. Knows nothing about teachers, stores or HTTP.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from rootstock import db, ids, leases, paging, tables, usage
from rootstock.db import Tx
from rootstock.distil import Answer, Drawn, Outcome, Prompt, draw
from rootstock.distil.records import Distillation, Example, Judged, Status
from rootstock.errors import InvalidRequest, LeaseLost, NotFound
from rootstock.records import Page

MAX_LIMIT = 100
ROWS = 100
"""Examples that are read at once at most."""

KEY_SECONDS = 7 * 86400.0
"""A teacher's key is forgotten after this long, whether or not its run has found a worker."""

TOKENS = ("prompt_tokens", "completion_tokens")

_runs = tables.distillations
_examples = tables.distillation_examples


LIVING = [str(status) for status in Status if not status.terminal]


def create(
    tx: Tx,
    project_id: str,
    *,
    spec: dict[str, Any],
    source_object: str | None = None,
    teacher_key: str | None = None,
    prompts: Sequence[Prompt] | None = None,
) -> Distillation:
    """Accept a distillation. Its prompts are read by a worker, unless they are given: then they are drawn at once."""
    row = tx.execute(
        _runs.insert()
        .values(
            id=ids.new("distil_"),
            project_id=project_id,
            status=Status.QUEUED.value,
            fence=0,
            attempts=0,
            not_before=db.now(),
            spec=spec,
            source_object=source_object,
            teacher_key=teacher_key,
            total=0,
            done=0,
            outcomes={},
            usage=dict.fromkeys(TOKENS, 0),
            created_at=db.now(),
        )
        .returning(_runs)
    ).one()
    run = _record(row)
    if prompts is None:
        return run
    drawn = draw(lambda: prompts, spec["budget"]["max_examples"], spec["seed"])
    _insert(tx, run, drawn.of(prompts))
    begun = _move(tx, [_runs.c.id == run.id], Status.IN_PROGRESS, **_counts(tx, run, drawn))
    assert begun is not None
    return begun


def get(tx: Tx, project_id: str, distillation_id: str) -> Distillation:
    """The project's distillation. Raises `NotFound`, also for another project's."""
    row = None
    if ids.is_plain(distillation_id):
        where = [_runs.c.id == distillation_id, _runs.c.project_id == project_id]
        row = tx.execute(sa.select(_runs).where(*where)).one_or_none()
    if row is None:
        raise NotFound(f"No distillation found with id '{distillation_id[:64]}'.", param="distillation_id")
    return _record(row)


def list_page(tx: Tx, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[Distillation]:
    """A page of the project's distillations, newest first; `limit` is clamped to 1..100.

    Raises `InvalidValue` (param `after`) for a cursor that is none of them.
    """
    where = [_runs.c.project_id == project_id]
    return paging.page(tx, _runs, where, order="desc", limit=min(limit, MAX_LIMIT), after=after, build=_record)


def cancel(tx: Tx, project_id: str, distillation_id: str) -> Distillation:
    """End it at once, without a file; its worker hears `LeaseLost` at its next write.

    Raises `NotFound`, and `InvalidRequest` when it has already ended.
    """
    get(tx, project_id, distillation_id)
    living = [_runs.c.id == distillation_id, _runs.c.status.in_(LIVING)]
    moved = _move(tx, living, Status.CANCELLED, fence=_runs.c.fence + 1)
    if moved is None:
        status = get(tx, project_id, distillation_id).status
        raise InvalidRequest(f"{distillation_id} cannot be cancelled: its status is already '{status}'.")
    return moved


def claim(tx: Tx, *, worker: str, lease_seconds: float, max_attempts: int) -> Distillation | None:
    """Take the distillation that has waited longest, those of silent workers too; `None`: there is nothing to do.

    One that was claimed `max_attempts` times without anything new fails here instead.
    """
    # SKIP LOCKED lets PostgreSQL's workers pick different rows at once; on SQLite writers are in line already.
    found = tx.execute(
        sa.select(_runs.c.id, _runs.c.attempts)
        .where(*_waiting())
        .order_by(_runs.c.not_before, _runs.c.seq)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if found is None:
        return None
    if found.attempts >= max_attempts:
        text = "The distillation failed because of an internal error. It may succeed when created again."
        error = {"code": "server_error", "message": text}
        _move(tx, [_runs.c.id == found.id, *_waiting()], Status.FAILED, fence=_runs.c.fence + 1, error=error)
        return None
    row = tx.execute(
        _runs.update()
        .where(_runs.c.id == found.id, *_waiting())
        .values(
            fence=_runs.c.fence + 1,
            attempts=_runs.c.attempts + 1,
            lease_owner=worker,
            lease_expires_at=db.now() + lease_seconds,
            started_at=sa.func.coalesce(_runs.c.started_at, db.now()),
        )
        .returning(_runs)
    ).one_or_none()
    return _record(row) if row else None


def renew(tx: Tx, run: Distillation, judged: Sequence[Judged] = (), *, lease_seconds: float) -> Distillation:
    """Keep the lease and store what became of some examples; the distillation as it is then.

    When its budget of tokens is used up it is `finalizing` from here on. Raises `LeaseLost`.
    """
    now = _fenced(tx, run, lease_expires_at=db.now() + lease_seconds)
    stored = [one for one in judged if _settle(tx, run.id, one)]
    if not stored:
        return now
    outcomes = dict(now.outcomes)
    for one in stored:
        outcomes[one.outcome] = outcomes.get(one.outcome, 0) + 1
    spent = {name: now.usage[name] + sum(getattr(one.tokens, name) for one in stored) for name in TOKENS}
    now = _fenced(tx, run, attempts=0, done=now.done + len(stored), outcomes=outcomes, usage=spent)
    _meter(tx, run.project_id, stored)
    most = (run.spec.get("budget") or {}).get("max_tokens")
    if now.status is Status.IN_PROGRESS and most is not None and sum(spent.values()) >= most and now.done < now.total:
        return finalize(tx, now, stopped_by="max_tokens")
    return now


def forget_prompts(tx: Tx, run: Distillation) -> None:
    """Begin the reading of prompts anew, whatever an earlier worker had read. Raises `LeaseLost`."""
    _fenced(tx, run)
    tx.execute(_examples.delete().where(_examples.c.distillation_id == run.id))


def add(tx: Tx, run: Distillation, prompts: Iterable[tuple[int, Prompt]]) -> None:
    """Write down prompts to be asked, by their places in the source. Raises `LeaseLost`."""
    _fenced(tx, run)
    _insert(tx, run, prompts)


def begin(tx: Tx, run: Distillation, drawn: Drawn) -> Distillation:
    """Every prompt is written down and can be asked. Raises `LeaseLost`."""
    return _advance(tx, run, Status.IN_PROGRESS, attempts=0, **_counts(tx, run, drawn))


def finalize(
    tx: Tx, run: Distillation, *, stopped_by: str | None = None, error: dict[str, Any] | None = None
) -> Distillation:
    """No more is asked: all is done, or `stopped_by` says what ended it before. Raises `LeaseLost`."""
    return _advance(tx, run, Status.FINALIZING, stopped_by=stopped_by, error=error, attempts=0)


def complete(
    tx: Tx,
    run: Distillation,
    *,
    outcomes: dict[str, int],
    training_file: str,
    provenance_file: str,
    provenance: dict[str, Any],
) -> Distillation:
    """The files are there. Raises `LeaseLost`."""
    made = {"training_file": training_file, "provenance_file": provenance_file, "provenance": provenance}
    return _advance(tx, run, Status.COMPLETED, outcomes=outcomes, **made)


def fail(tx: Tx, run: Distillation, code: str, message: str, outcomes: dict[str, int] | None = None) -> Distillation:
    """There will be no file, for this reason. Raises `LeaseLost`."""
    counted = {} if outcomes is None else {"outcomes": outcomes}
    return _advance(tx, run, Status.FAILED, error={"code": code, "message": message}, **counted)


def hand_back(tx: Tx, run: Distillation) -> None:
    """Let another worker go on, because this one is asked to stop or others wait. Raises `LeaseLost`."""
    _fenced(tx, run, lease_owner=None, lease_expires_at=None, attempts=0, not_before=db.now())


def requeue(tx: Tx, run: Distillation) -> None:
    """Leave it to another attempt, later: a fault of ours. Raises `LeaseLost`."""
    wait = leases.backoff_seconds(run.attempts)
    _fenced(tx, run, lease_owner=None, lease_expires_at=None, not_before=db.now() + wait)


def another_waits(tx: Tx) -> bool:
    """Whether a worker that let go of its work would find a distillation here."""
    return tx.scalar(sa.select(_runs.c.id).where(*_waiting()).limit(1)) is not None


def unsettled(tx: Tx, run_id: str, *, after: int) -> list[Example]:
    """Some examples that came to no outcome yet, by number, those after `after`; empty at the end."""
    return _read(tx, run_id, after, _examples.c.outcome.is_(None))


def forget_keys(tx: Tx) -> int:
    """Wipe the keys of runs that take longer than any key is kept; how many. Their teachers refuse from then on."""
    old = [_runs.c.teacher_key.is_not(None), _runs.c.created_at < db.now() - KEY_SECONDS]
    return tx.execute(_runs.update().where(*old).values(teacher_key=None)).rowcount


def examples(tx: Tx, run_id: str, *, after: int, outcome: Outcome | None = None) -> list[Example]:
    """Some examples, all or those with this outcome, by number, those after `after`; empty at the end."""
    return _read(tx, run_id, after, *([] if outcome is None else [_examples.c.outcome == str(outcome)]))


def file_id(run_id: str, kind: str) -> str:
    """The id of a file that a distillation writes. Always the same one: a worker that died before is written over."""
    return ids.derived("file-", f"{run_id}/{kind}")


def _read(tx: Tx, run_id: str, after: int, *where: sa.ColumnElement[bool]) -> list[Example]:
    table = _examples
    query = sa.select(table.c.number, table.c.prompt, table.c.answer, table.c.outcome)
    query = query.where(table.c.distillation_id == run_id, table.c.number > after, *where)
    return [
        Example(number, Prompt.from_json(prompt), Answer.from_json(answer) if answer else None, outcome)
        for number, prompt, answer, outcome in tx.execute(query.order_by(table.c.number).limit(ROWS))
    ]


def _insert(tx: Tx, run: Distillation, prompts: Iterable[tuple[int, Prompt]]) -> None:
    answered = run.spec["teacher"] is None
    rows = [
        {
            "distillation_id": run.id,
            "number": number,
            "prompt": prompt.to_json(),
            "answer": prompt.own.to_json() if answered and prompt.own else None,
        }
        for number, prompt in prompts
    ]
    if rows:
        tx.execute(_examples.insert(), rows)


def _counts(tx: Tx, run: Distillation, drawn: Drawn) -> dict[str, Any]:
    counted = {
        Outcome.INVALID_PROMPT: drawn.invalid,
        Outcome.REPEATED_PROMPT: drawn.repeated,
        Outcome.NOT_DRAWN: drawn.left_out,
    }
    total = tx.scalar(sa.select(sa.func.count()).where(_examples.c.distillation_id == run.id))
    return {"total": total, "outcomes": {str(outcome): count for outcome, count in counted.items() if count}}


def _waiting() -> list[sa.ColumnElement[bool]]:
    free = sa.or_(_runs.c.lease_owner.is_(None), _runs.c.lease_expires_at < db.now())
    return [_runs.c.status.in_(LIVING), free, _runs.c.not_before <= db.now()]


def _advance(tx: Tx, run: Distillation, to: Status, **values: Any) -> Distillation:
    held = [_runs.c.id == run.id, _runs.c.status == str(run.status), _runs.c.fence == run.fence]
    moved = _move(tx, [*held, _runs.c.lease_owner.is_not(None)], to, **values)
    if moved is None:
        raise _lost(run)
    return moved


def _move(tx: Tx, where: list[sa.ColumnElement[bool]], to: Status, **values: Any) -> Distillation | None:
    """On the way into an end the lease is cleared, and the teacher's key and all examples are forgotten."""
    if to.terminal:
        values |= {"lease_owner": None, "lease_expires_at": None, "teacher_key": None, "finished_at": db.now()}
    row = tx.execute(_runs.update().where(*where).values(status=to.value, **values).returning(_runs)).one_or_none()
    if row is not None and to.terminal:
        tx.execute(_examples.delete().where(_examples.c.distillation_id == row.id))
    return _record(row) if row else None


def _fenced(tx: Tx, run: Distillation, **values: Any) -> Distillation:
    """Write to a row that this worker still owns; on PostgreSQL it then stays locked until the commit."""
    row = tx.execute(
        _runs.update()
        .where(_runs.c.id == run.id, _runs.c.fence == run.fence, _runs.c.lease_owner.is_not(None))
        .values({"fence": run.fence} | values)
        .returning(_runs)
    ).one_or_none()
    if row is None:
        raise _lost(run)
    return _record(row)


def _lost(run: Distillation) -> LeaseLost:
    return LeaseLost(f"Distillation {run.id} is no longer owned by this worker (fence {run.fence}).")


def _settle(tx: Tx, run_id: str, one: Judged) -> bool:
    open_ = [_examples.c.distillation_id == run_id, _examples.c.number == one.number, _examples.c.outcome.is_(None)]
    values = {"answer": one.answer.to_json(), "outcome": str(one.outcome)}
    return tx.execute(_examples.update().where(*open_).values(**values)).rowcount == 1


def _meter(tx: Tx, project_id: str, stored: Sequence[Judged]) -> None:
    amounts: dict[usage.Key, usage.Amounts] = {}
    for one in stored:
        for model, spent in one.own.items():
            key = usage.Key.today(project_id, model)
            amounts[key] = amounts.get(key, usage.Amounts()) + spent
    usage.add(tx, amounts)


def _record(row: sa.Row[Any]) -> Distillation:
    values = dict(row._mapping)
    return Distillation(**values | {"status": Status(values["status"])})
