"""The worker process: load the base once, then claim and train until told to stop.

The table is looked at when the bell rings, after each job, and every few seconds anyway: a lost bell costs only time.
"""

import logging
import os
import queue
import signal
import socket
from types import FrameType

from rootstock import jobs
from rootstock.bell import queue_name
from rootstock.db import Database
from rootstock.doorbell import Doorbell
from rootstock.errors import Unavailable
from rootstock.records import JobRecord
from rootstock.settings import Settings
from rootstock.storage import open_store
from trainer.base import load_base
from trainer.worker.job import Workplace, run_job

log = logging.getLogger(__name__)


class Stop:
    """Hears SIGTERM and SIGINT: the first asks to leave at the next step boundary, the second ends the process now."""

    def __init__(self) -> None:
        self.asked = False
        # The one queue whose `put` may be called inside a signal handler.
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def install(self) -> None:
        """Take over the two signals; only in the main thread."""
        signal.signal(signal.SIGTERM, self._hear)
        signal.signal(signal.SIGINT, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)
        self.asked = True
        self.wake.put(None)

    def pause(self, seconds: float) -> None:
        """Wait for a ring, a signal, or until the time is over."""
        try:
            self.wake.get(timeout=seconds)
            while True:
                self.wake.get_nowait()
        except queue.Empty:
            pass


def work(settings: Settings) -> None:
    """Train jobs of the configured base model until a signal says to leave; returns then.

    Raises `ConfigurationError` when the process cannot start.
    """
    stop = Stop()
    stop.install()
    db = Database(settings.effective_database_url)
    db.wait_until_migrated()
    base = load_base(
        settings.base_model,
        name=settings.base_name,
        device=settings.trainer_device,
        dtype=settings.trainer_dtype,
        threads=settings.trainer_threads,
        context_tokens=settings.max_context_tokens,
    )
    place = Workplace(settings, db, open_store(settings), base, lambda: stop.asked)
    doorbell = Doorbell(settings.effective_redis_url, queue_name(base.name), lambda: stop.wake.put(None))
    doorbell.start()
    log.info("ready: trains %s on %s in %s", base.name, base.device, base.dtype)
    name = f"{socket.gethostname()}:{os.getpid()}"
    try:
        while not stop.asked:
            job = _claim(place, name)
            if job is None:
                stop.pause(settings.poll_seconds)
            else:
                run_job(place, job)
    finally:
        doorbell.leave()
        db.close()
    log.info("stopped")


def _claim(place: Workplace, worker: str) -> JobRecord | None:
    try:
        with place.db.transaction() as tx:
            return jobs.claim(tx, base=place.base.name, worker=worker, lease_seconds=place.settings.lease_seconds)
    except Unavailable:
        return None  # logged where it happened; the next look comes by itself
