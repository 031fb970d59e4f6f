"""Releases: what is measured of a job's tune before it goes out, and what was decided. One row for each job.

`baseline` (the base is asked, while the job trains) -> `tuned` (the tune is asked, once it was proven) -> `done`. A
worker owns a release through a lease and a fence, as with jobs and batches; answers are rows, so what was answered once
is never asked again. A lease that has run out may be claimed. Knows nothing about questions, metrics or vLLM.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import aliases, db, events, jobs, policies, tables
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, LeaseLost, ModelInUse
from rootstock.records import Caller, JobRecord, JobStatus
from rootstock.release.verdict import Verdict

BASELINE, TUNED, DONE = "baseline", "tuned", "done"

MAX_OVERRIDES = 100
"""Decisions of owners that are kept; a release that saw more of them keeps the last ones."""

_LIVING = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.FINALIZING)
"""Jobs whose files were found good and which have not ended."""


@dataclass(frozen=True, slots=True)
class Release:
    """A row of `releases`."""

    job_id: str
    project_id: str
    state: str
    fence: int
    lease_owner: str | None
    lease_expires_at: float | None
    attempts: int
    not_before: float
    created_at: float
    proven_at: float | None
    done_at: float | None
    held: bool
    result: dict[str, Any] | None
    overrides: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of `release_answers`. `text` is `None` where the question could not be asked."""

    role: str
    number: int
    text: str | None
    score: float | None


def begin(tx: Tx, job: JobRecord) -> None:
    """Have the job's tune measured; the base may be asked at once. Again: nothing changes."""
    tx.execute(_new(tx, job, state=BASELINE).on_conflict_do_nothing(index_elements=["job_id"]))


def of_job(tx: Tx, job_id: str) -> Release | None:
    """The job's release, whoever's it is; `None` where nothing is measured of the job."""
    row = tx.execute(sa.select(tables.releases).where(tables.releases.c.job_id == job_id)).one_or_none()
    return None if row is None else Release(**row._mapping)


def claim(tx: Tx, *, worker: str, lease_seconds: float) -> Release | None:
    """Take the release that is to be measured next, tuned models before bases; `None` when there is none."""
    table = tables.releases
    # SKIP LOCKED lets PostgreSQL's workers pick different rows at once; on SQLite writers are in line already.
    job_id = tx.scalar(
        sa.select(table.c.job_id)
        .join(tables.jobs, tables.jobs.c.id == table.c.job_id)
        .where(*_waiting())
        .order_by(table.c.proven_at.is_(None), table.c.not_before, table.c.created_at)
        .limit(1)
        .with_for_update(of=table, skip_locked=True)
    )
    if job_id is None:
        return None
    row = tx.execute(
        table.update()
        .where(table.c.job_id == job_id, _unowned(), table.c.state != DONE)
        .values(
            fence=table.c.fence + 1,
            attempts=table.c.attempts + 1,
            lease_owner=worker,
            lease_expires_at=db.now() + lease_seconds,
        )
        .returning(table)
    ).one_or_none()
    return None if row is None else Release(**row._mapping)


def another_waits(tx: Tx) -> bool:
    """Whether a worker that has time would get one."""
    query = sa.select(tables.releases.c.job_id).join(tables.jobs, tables.jobs.c.id == tables.releases.c.job_id)
    return tx.scalar(query.where(*_waiting()).limit(1)) is not None


def store(tx: Tx, release: Release, answers: Sequence[Answer], *, lease_seconds: float) -> Release:
    """Keep the lease and the answers, each once. Raises `LeaseLost`, also when the job has ended meanwhile."""
    job = jobs.find(tx, release.job_id)
    if job is None or job.status.terminal:
        raise LeaseLost(f"The job {release.job_id} has ended: nothing is to be measured of it any more.")
    progress = {"attempts": 0} if answers else {}
    now = _fenced(tx, release, lease_expires_at=db.now() + lease_seconds, **progress)
    if answers:
        rows = [
            {"job_id": release.job_id, "role": one.role, "number": one.number, "answer": one.text, "score": one.score}
            for one in answers
        ]
        statement = db.insert(tx, tables.release_answers).values(rows)
        tx.execute(statement.on_conflict_do_nothing(index_elements=["job_id", "role", "number"]))
    return now


def answers(tx: Tx, job_id: str, role: str | None = None) -> dict[str, dict[int, Answer]]:
    """All answers so far, or those in one role: role -> number of the question -> answer."""
    table = tables.release_answers
    wanted = [table.c.job_id == job_id, *([] if role is None else [table.c.role == role])]
    found: dict[str, dict[int, Answer]] = {}
    for row in tx.execute(sa.select(table).where(*wanted).order_by(table.c.role, table.c.number)):
        found.setdefault(row.role, {})[row.number] = Answer(row.role, row.number, row.answer, row.score)
    return found


def forget_answers(tx: Tx, object_key: str) -> None:
    """Forget what models said to the examples of a file whose content is gone; scores and verdicts stay."""
    held_out = sa.func.coalesce(tables.jobs.c.validation_object, tables.jobs.c.training_object)
    of_file = sa.select(tables.jobs.c.id).where(held_out == object_key)
    table = tables.release_answers
    tx.execute(table.update().where(table.c.job_id.in_(of_file)).values(answer=None))


def to_tuned(tx: Tx, release: Release, message: str) -> None:
    """The base has been asked: say what it got, and let go until the tune can be asked. Raises `LeaseLost`."""
    _fenced(tx, release, state=TUNED, lease_owner=None, lease_expires_at=None, attempts=0, not_before=db.now())
    events.add(tx, release.job_id, release.project_id, message, dedupe="baseline")


def hand_back(tx: Tx, release: Release, *, after_seconds: float = 0.0, silent: bool = True) -> None:
    """Let another worker go on; not `silent`: because of a fault, which counts. Raises `LeaseLost`."""
    counted = {"attempts": 0} if silent else {}
    _fenced(tx, release, lease_owner=None, lease_expires_at=None, not_before=db.now() + after_seconds, **counted)


def prove(tx: Tx, job_id: str) -> None:
    """The tuned model was seen answering as it was trained: from now on it may be asked, and time runs."""
    table = tables.releases
    unproven = [table.c.job_id == job_id, table.c.proven_at.is_(None)]
    tx.execute(table.update().where(*unproven).values(proven_at=db.now(), not_before=db.now()))


def settle(tx: Tx, job: JobRecord, verdict: Verdict, *, by: Release | None = None) -> bool:
    """Write down the verdict, in the job too, and hold the tune where the project's policy says so.

    `by` is the claim of a worker; without one it is decided over the head of whoever measures. False when it was
    decided before. Raises `LeaseLost`.
    """
    table, mode = tables.releases, policies.of(tx, job.project_id).release.mode
    held = verdict.verdict == "hold" and mode == "enforce"
    result = {
        "verdict": verdict.verdict,
        "reasons": [reason.message for reason in verdict.reasons],
        "codes": [reason.code for reason in verdict.reasons],
        "mode": mode,
        "held": held,
        **verdict.numbers,
    }
    if by is None:
        tx.execute(_new(tx, job, state=TUNED).on_conflict_do_nothing(index_elements=["job_id"]))
    else:
        _fenced(tx, by)
    done = tx.execute(
        table.update()
        .where(table.c.job_id == job.id, table.c.state != DONE)
        .values(
            state=DONE,
            fence=table.c.fence + 1,
            lease_owner=None,
            lease_expires_at=None,
            done_at=db.now(),
            held=held,
            result=result,
        )
    )
    if done.rowcount != 1:
        return False
    _show(tx, job.id, result)
    told = f"Release verdict: {verdict.verdict}"
    told += f" ({verdict.numbers['summary']})" if "summary" in verdict.numbers else ""
    told += "".join(f". {reason.message.rstrip('.')}" for reason in verdict.reasons)
    events.add(
        tx, job.id, job.project_id, told, level="warn" if verdict.verdict == "hold" else "info", dedupe="release"
    )
    return True


def override(tx: Tx, caller: Caller, job_id: str, *, released: bool, reason: str | None) -> Release:
    """Let a held tune out, or hold it again; who did it, when and why is kept.

    Raises `JobNotFound`, `InvalidRequest` where nothing was held, and `ModelInUse` when aliases point to what would be
    held again.
    """
    job = jobs.get(tx, caller.project_id, job_id)
    found = of_job(tx, job.id)
    if found is None or found.state != DONE or found.result is None:
        raise InvalidRequest(f"The tune of {job.id} has no verdict yet, so there is nothing to let out.")
    if found.result["verdict"] != "hold" or not (found.held or found.overrides):
        raise InvalidRequest(
            f"The tune of {job.id} is not held: its verdict is '{found.result['verdict']}', and the project's policy "
            f"was '{found.result['mode']}' when it was decided."
        )
    if released == (not found.held):
        return found
    if not released:
        _check_unused(tx, caller.project_id, job.id)
    made = {"released": released, "key_id": caller.key_id, "at": int(db.clock(tx)), "reason": reason}
    result = {**found.result, "held": not released}
    row = tx.execute(
        tables.releases.update()
        .where(tables.releases.c.job_id == job.id, tables.releases.c.held == found.held)
        .values(held=not released, result=result, overrides=[*found.overrides, made][-MAX_OVERRIDES:])
        .returning(tables.releases)
    ).one()
    _show(tx, job.id, result)
    said = "Released" if released else "Held again"
    message = f"{said} by an owner of the project" + (f": {reason}" if reason else "")
    events.add(tx, job.id, job.project_id, message, level="warn", dedupe=f"override-{len(found.overrides)}")
    return Release(**row._mapping)


def _check_unused(tx: Tx, project_id: str, job_id: str) -> None:
    for model in tx.scalars(sa.select(tables.models.c.id).where(tables.models.c.job_id == job_id)):
        if names := aliases.pointing_to(tx, project_id, model):
            raise ModelInUse(
                f"The model '{model}' answers for the alias '{names[0]}'. Move or delete the alias first "
                "(/v1/rootstock/aliases)."
            )


def _new(tx: Tx, job: JobRecord, *, state: str) -> Any:
    values = {"job_id": job.id, "project_id": job.project_id, "state": state, "fence": 0, "attempts": 0}
    return db.insert(tx, tables.releases).values(
        **values, not_before=db.now(), created_at=db.now(), held=False, overrides=[]
    )


def _show(tx: Tx, job_id: str, result: dict[str, Any]) -> None:
    """In the job's own row: no worker has it by now, so nobody else writes there."""
    table = tables.jobs
    kept = tx.execute(sa.select(table.c.rootstock).where(table.c.id == job_id)).scalar_one()
    tx.execute(table.update().where(table.c.id == job_id).values(rootstock={**(kept or {}), "release": result}))


def _unowned() -> sa.ColumnElement[bool]:
    table = tables.releases
    return sa.or_(table.c.lease_owner.is_(None), table.c.lease_expires_at < db.now())


def _waiting() -> Collection[sa.ColumnElement[bool]]:
    table, status = tables.releases, tables.jobs.c.status
    base = sa.and_(table.c.state == BASELINE, status.in_([str(one) for one in _LIVING]))
    tuned = sa.and_(table.c.state == TUNED, table.c.proven_at.is_not(None), status == str(JobStatus.FINALIZING))
    return [table.c.state != DONE, sa.or_(base, tuned), _unowned(), table.c.not_before <= db.now()]


def _fenced(tx: Tx, release: Release, **values: Any) -> Release:
    table = tables.releases
    held = [table.c.job_id == release.job_id, table.c.fence == release.fence, table.c.state != DONE]
    row = tx.execute(
        table.update().where(*held).values(**values or {"fence": release.fence}).returning(table)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"The release of {release.job_id} is no longer this worker's (fence {release.fence}).")
    return Release(**row._mapping)
