"""Takes the steps of running upgrades: start a job, read a verdict, move an alias. Knows no routes.

A chore of every API process. All of an upgrade's step is one transaction that holds its row, and what is made has an id
that follows from the upgrade, so several processes, and one that died in between, do nothing twice.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rootstock import aliases, ids, jobs, keys, releases, upgrades
from rootstock.db import Database, Tx
from rootstock.errors import RootstockError
from rootstock.records import Caller, JobRecord, JobStatus
from rootstock.release.statistics import paired_bootstrap
from rootstock.release.verdict import FEWEST
from rootstock.settings import Settings
from rootstock.sweep import Sweep
from rootstock.telemetry import log_context
from rootstock.upgrades import Affected, State, Upgrade
from service.upgrading.planning import Planner, side

log = logging.getLogger(__name__)


class Stepper:
    """Example: `Stepper(database, settings, sweep).run_once()`, every second or so. `most_rank` is as for `Wish`."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        sweep: Sweep,
        most_rank: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self._db = database
        self._settings = settings
        self._sweep = sweep
        self._most_rank = most_rank

    def run_once(self) -> None:
        """One step of each model that can take one; one alias and one new job of each upgrade at most."""
        with self._db.read() as tx:
            going = upgrades.running(tx)
        for upgrade_id in going:
            with log_context(upgrade_id=upgrade_id):
                try:
                    with self._db.transaction() as tx:
                        started = self._step(tx, upgrade_id)
                    if started is not None:
                        self._sweep.judge(started)
                except Exception:  # one upgrade must not hold up the others
                    log.exception("the upgrade could not take its step; it is tried again")

    def _step(self, tx: Tx, upgrade_id: str) -> str | None:
        """The id of the job that was started, if one was."""
        upgrade = upgrades.hold(tx, upgrade_id)
        if upgrade is None:
            return None
        for one in upgrades.affected(tx, upgrade.id, State.TRAINING):
            self._look(tx, one)
        for one in upgrades.affected(tx, upgrade.id, State.MOVING)[:1]:
            self._move(tx, upgrade, one)
        started = self._start(tx, upgrade)
        if upgrades.complete(tx, upgrade):
            log.info("the upgrade is complete")
        return started

    def _start(self, tx: Tx, upgrade: Upgrade) -> str | None:
        training = upgrades.affected(tx, upgrade.id, State.TRAINING)
        waiting = upgrades.affected(tx, upgrade.id, State.WAITING)
        if not waiting or len(training) >= upgrade.concurrency:
            return None
        one = waiting[0]
        caller = self._caller(upgrade)
        try:
            with tx.begin_nested():
                old = jobs.get(tx, upgrade.project_id, one.job_id)
                job_id = ids.derived("ftjob-", f"{upgrade.id}/{one.number}")
                job = Planner(self._settings, caller, self._most_rank).again(tx, old, upgrade.to_base, job_id)
        except RootstockError as error:
            upgrades.advance(tx, one, State.FAILED, reason=error.message)
            return None
        upgrades.advance(tx, one, State.TRAINING, new_job_id=job.id)
        return job.id

    def _look(self, tx: Tx, one: Affected) -> None:
        """Where a model goes whose job has ended."""
        job = jobs.find(tx, str(one.new_job_id))
        if job is not None and not job.status.terminal:
            return
        old = jobs.find(tx, one.job_id)
        report = one.report if job is None or old is None else compared(tx, old, job)
        state, reason = judged(job, report or {})
        upgrades.advance(tx, one, state, reason=reason, report=report)

    def _move(self, tx: Tx, upgrade: Upgrade, one: Affected) -> None:
        """Point the next of its aliases to the new model; when there is none left it is released."""
        tried = {move["alias"] for move in one.moves}
        left = [name for name in aliases.pointing_to(tx, upgrade.project_id, one.model) if name not in tried]
        if not left:
            upgrades.advance(tx, one, State.RELEASED)
            return
        new = str((one.report or {})["new"]["model"])
        moved: dict[str, Any] = {"alias": left[0], "moved": True, "revision": None, "reason": None}
        try:
            with tx.begin_nested():
                moved["revision"] = self._point(tx, upgrade, one, left[0], new)
        except RootstockError as error:
            moved |= {"moved": False, "reason": error.message}
        upgrades.advance(tx, one, State.MOVING, moves=[*one.moves, moved])

    def _point(self, tx: Tx, upgrade: Upgrade, one: Affected, name: str, new: str) -> int:
        """Put the new model where the alias has the old one; its revision then."""
        found = aliases.get(tx, upgrade.project_id, name)
        target = replace(
            found.target,
            model=new if found.target.model == one.model else found.target.model,
            canary_model=new if found.target.canary_model == one.model else found.target.canary_model,
        )
        note = f"{upgrade.id}: the new model's verdict is ship"
        caller = self._caller(upgrade)
        expected = found.revision
        return aliases.put(tx, self._settings, caller, name, target, expected_revision=expected, note=note).revision

    def _caller(self, upgrade: Upgrade) -> Caller:
        return Caller(upgrade.project_id, self._settings.organization, upgrade.key_id, keys.OWNER)


def compared(tx: Tx, old: JobRecord, new: JobRecord) -> dict[str, Any]:
    """Both models side by side, by what their own jobs measured.

    `change` is the new mean less the old one where the metric is the same. `gain` is the paired interval of it over the
    held-out examples that both were asked; `None` where the files are not the same or the answers too few.
    """
    sides = {"old": side(tx, old), "new": side(tx, new)}
    scores = [one["score"] for one in sides.values()]
    same = sides["old"]["metric"] == sides["new"]["metric"] and None not in scores
    change = round(scores[1]["mean"] - scores[0]["mean"], 6) if same else None
    return {**sides, "change": change, "gain": _gain(tx, old, new) if same else None}


def _gain(tx: Tx, old: JobRecord, new: JobRecord) -> dict[str, float] | None:
    if old.validation_object != new.validation_object or old.training_object != new.training_object:
        return None
    before, after = (releases.answers(tx, job.id).get("tuned", {}) for job in (old, new))
    both = [n for n in before if n in after and before[n].score is not None and after[n].score is not None]
    if len(both) < FEWEST:
        return None
    pairs = ([answers[n].score or 0.0 for n in both] for answers in (before, after))
    return paired_bootstrap(*pairs, seed=new.seed).as_dict()


def judged(job: JobRecord | None, report: dict[str, Any]) -> tuple[State, str | None]:
    """What becomes of a model whose new job has ended: its aliases move on the verdict `ship` alone, and when the new
    model is not clearly worse than the old one."""
    if job is None or job.status is JobStatus.CANCELLED:
        return State.CANCELLED, "Its job was cancelled."
    if job.status is JobStatus.FAILED:
        return State.FAILED, f"Its job failed: {(job.error or {}).get('message')}"
    release = (job.rootstock or {}).get("release")
    if not release:
        return State.KEPT, "Its aliases stay: nothing was held out to measure the new model by, so there is no verdict."
    if release["verdict"] != "ship":
        why = " ".join(release.get("reasons") or [])
        return State.KEPT, f"Its aliases stay: the verdict on the new model is '{release['verdict']}'. {why}".strip()
    change, gain = report.get("change"), report.get("gain")
    # By pairs where both were asked the same; else only when the new interval does not reach the old mean.
    worse = change is not None and report["new"]["score"]["high"] < report["old"]["score"]["mean"]
    if change is not None and (worse if gain is None else gain["high"] < 0):
        return State.KEPT, (
            f"Its aliases stay: the new model beats its base, and is worse than the old one by {-change:.3f} "
            f"({report['new']['metric']})."
        )
    return State.MOVING, None
