"""A claimed job stays ours: a thread renews the lease and carries the steps' events into the database.

The training loop only leaves notes here and never waits for a database. When the job is lost (cancelled, given to
another worker, or the database away until the lease was spent) `lost` says so and nothing more is written.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rootstock import events, jobs
from rootstock.db import Database, Tx
from rootstock.errors import LeaseLost, ObjectNotFound, Unavailable
from rootstock.records import JobRecord
from trainer.loop import Progress

log = logging.getLogger(__name__)

WRITE_SECONDS = 0.5
"""Fast steps are written together, this often at most."""

WATCHDOG_SECONDS = 1800.0
"""When no step has ended for so long, the process is taken to hang: the lease runs out and another worker goes on."""


class Lease:
    """Keeps one claimed job. Use as a context manager around everything that is done for it."""

    def __init__(
        self,
        db: Database,
        job: JobRecord,
        *,
        lease_seconds: float,
        heartbeat_seconds: float,
        watchdog_seconds: float = WATCHDOG_SECONDS,
    ) -> None:
        self.job = job
        self.wish = "run"  # `JobRecord.want`, as last heard
        self._db = db
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._watchdog_seconds = watchdog_seconds
        self._notes: list[Progress] = []
        self._latest: Progress | None = None
        self._estimated_finish: float | None = None
        self._guard = threading.Lock()  # of the notes
        self._writing = threading.Lock()  # one transaction at a time, so that events keep their order
        self._taken = threading.Event()  # the job is not ours any more
        self._closed = threading.Event()
        self._noted = threading.Event()
        self._renewed_at = self._progress_at = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job.id}", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._noted.set()
        self._thread.join()

    @property
    def lost(self) -> bool:
        """Whether the job is no longer ours: stop, and write nothing more."""
        return self._taken.is_set() or time.monotonic() - self._renewed_at > self._lease_seconds

    @property
    def to_pause(self) -> bool:
        """Whether the owner wants the job to stop after this step; also when they want it back by now."""
        return self.wish != "run"

    def alive(self) -> None:
        """Something got done; keeps the watchdog quiet between steps."""
        self._progress_at = time.monotonic()

    def note(self, progress: Progress, estimated_finish: float) -> None:
        """Remember a finished step; it is written soon, in order, and never lost while the job is ours."""
        self.alive()
        with self._guard:
            self._notes.append(progress)
            self._latest = progress
            self._estimated_finish = estimated_finish
        self._noted.set()

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        """A transaction of the job's own, after everything noted so far. Raises `LeaseLost`, `Unavailable`."""
        with self._writing:
            began = time.monotonic()
            with self._db.transaction() as tx:
                written = self._write(tx)
                yield tx
            self._renewed_at = began
            with self._guard:
                del self._notes[:written]

    def read(self) -> AbstractContextManager[Tx]:
        """A look at the database, whether the job is still ours or not."""
        return self._db.read()

    def persist(self, act: Callable[[], Any]) -> Any:
        """Do something that needs the database or the store, again and again while they are away and the job ours.

        Raises `LeaseLost` when that lasts for too long, and whatever else `act` raises.
        """
        wait = 0.2
        while not self.lost:
            try:
                return act()
            except ObjectNotFound:
                raise
            except Unavailable as error:
                log.warning("trying again in %.1f s: %s", wait, error)
            self._closed.wait(wait)
            wait = min(5.0, 2 * wait)
        raise LeaseLost(f"Job {self.job.id} was lost.")

    def _keep(self) -> None:
        while not self._closed.is_set():
            due = self._noted.wait(self._heartbeat_seconds)
            if due:
                self._noted.clear()
                self._closed.wait(WRITE_SECONDS)  # more steps may end meanwhile
            if time.monotonic() - self._progress_at > self._watchdog_seconds:
                log.error("no step has ended for %.0f s; letting the lease run out", self._watchdog_seconds)
                return
            try:
                with self.transaction():
                    pass
            except LeaseLost as error:
                log.info("%s", error)
                return
            except Unavailable:
                self._closed.wait(min(2.0, self._heartbeat_seconds))
                self._noted.set()

    def _write(self, tx: Tx) -> int:
        with self._guard:
            notes, latest, finish = list(self._notes), self._latest, self._estimated_finish
        try:
            self.wish = jobs.renew(
                tx,
                self.job.id,
                self.job.fence,
                lease_seconds=self._lease_seconds,
                step=latest.step if latest else None,
                total_steps=latest.total_steps if latest else None,
                estimated_finish=finish,
            )
        except LeaseLost:
            self._taken.set()
            raise
        for note in notes:
            events.add(
                tx,
                self.job.id,
                self.job.project_id,
                step_message(note),
                type="metrics",
                data=note.metrics,
                dedupe=f"step-{note.step}",
            )
        return len(notes)


_LOSSES = {"train_loss": "training loss", "valid_loss": "validation loss", "full_valid_loss": "full validation loss"}
_REWARDS = {
    "train_mean_reward": "train mean reward",
    "full_valid_mean_reward": "full validation mean reward",
    "full_valid_mean_parse_error": "full validation mean parse error",
}


def step_message(progress: Progress) -> str:
    """The text of a metrics event, as the live service words it: rewards of a reinforcement job, else losses."""
    rewarded = "train_mean_reward" in progress.metrics
    shown = _REWARDS if rewarded else _LOSSES
    values = [f"{label}={progress.metrics[key]:.2f}" for key, label in shown.items() if key in progress.metrics]
    where = f"Step {progress.step}/{progress.total_steps}"
    return f"{where} , {', '.join(values)}" if rewarded else f"{where}: {', '.join(values)}"
