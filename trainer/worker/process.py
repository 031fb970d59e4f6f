"""The worker process: load the base once, then claim and train until told to stop, as many jobs at once as may be.

The table is looked at when the bell rings and every few seconds anyway: a lost bell costs only time.
"""

import functools
import logging
import os
import queue
import signal
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from types import FrameType
from typing import Any

from rootstock import jobs, telemetry
from rootstock.bell import queue_name
from rootstock.db import Database
from rootstock.doorbell import Doorbell
from rootstock.errors import ConfigurationError, Unavailable
from rootstock.records import JobRecord
from rootstock.settings import Settings
from rootstock.storage import open_store
from trainer.base import Base, load_base
from trainer.capacity import token_budget
from trainer.driver import Member, advance
from trainer.worker.board import check_available
from trainer.worker.engines import Engines
from trainer.worker.job import Workplace, live

log = logging.getLogger(__name__)

JOIN_SECONDS = 5.0
"""How often a worker that trains looks for jobs to join although no bell rang."""


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

    def rung(self) -> bool:
        """Whether there was a ring or a signal since the last look."""
        rings = 0
        try:
            while True:
                self.wake.get_nowait()
                rings += 1
        except queue.Empty:
            return rings > 0

    def pause(self, seconds: float) -> None:
        """Wait for a ring, a signal, or until the time is over."""
        try:
            self.wake.get(timeout=seconds)
        except queue.Empty:
            return
        self.rung()


def work(settings: Settings) -> None:
    """Train jobs of the configured base model until a signal says to leave; returns then.

    Raises `ConfigurationError` when the process cannot start.
    """
    stop = Stop()
    stop.install()
    check_available(settings.tensorboard_dir)
    if settings.trainer_metrics_port:
        telemetry.serve(settings.host, settings.trainer_metrics_port)
    db = Database(settings.effective_database_url)
    db.wait_until_migrated()

    def load(quantised: bool) -> Base:
        return load_base(
            settings.base_model,
            name=settings.base_name,
            device=settings.trainer_device,
            dtype=settings.trainer_dtype,
            threads=settings.trainer_threads,
            context_tokens=settings.max_context_tokens,
            quantised=quantised,
        )

    engines = Engines(load)
    doorbell = Doorbell(settings.effective_redis_url, queue_name(settings.base_name), lambda: stop.wake.put(None))
    doorbell.start()
    name = f"{socket.gethostname()}:{os.getpid()}"
    try:
        with engines:
            budget = token_budget(engines.engine, settings.max_training_tokens)
            place = Workplace(
                settings, db, open_store(settings), engines.base, engines.engine, lambda: stop.asked, budget
            )
            log.info("ready: %s in %s", engines.base.name, engines.base.dtype)
            _keep_training(place, stop, name, functools.partial(_for_type, engines))
    finally:
        doorbell.leave()
        db.close()
    log.info("stopped")


def _keep_training(
    place: Workplace, stop: Stop, worker: str, for_type: Callable[[Workplace, JobRecord], Workplace]
) -> None:
    """Train all that may be trained together; jobs join and leave between two passes.

    `for_type` gives the workplace for the type of a job that is the first of its group.
    """
    group: list[tuple[JobRecord, Future[Member]]] = []
    look_again = 0.0
    # Fetching and tokenizing a large file takes minutes; those who train do not wait for it.
    with ThreadPoolExecutor(2, thread_name_prefix="prepare") as preparing:
        while group or not stop.asked:
            if not stop.asked and (not group or stop.rung() or time.monotonic() > look_again):
                look_again = time.monotonic() + JOIN_SECONDS
                while (job := _claim(place, worker, [job for job, _ in group])) is not None:
                    if not group:
                        place = for_type(place, job)
                    group.append((job, preparing.submit(_begin, place, job)))
            if not group:
                stop.pause(place.settings.poll_seconds)
                continue
            members = [future.result() for _, future in group if future.done()]
            for member in members:
                if member.prepared:
                    member.proceed(None)
            asking = [member for member in members if member.wants is not None]
            if asking:
                assert place.engine is not None  # without one a job ends at once
                advance(place.engine, asking, place.token_budget)
            elif all(not member.done and not member.prepared for member in members):
                away: list[Future[Any]] = [future for _, future in group if not future.done()]
                away += [member.waits for member in members if member.waits is not None]
                wait(away, timeout=JOIN_SECONDS, return_when=FIRST_COMPLETED)
            # Whoever was first goes last, so that long rows of one job cannot starve the others.
            group = [(job, future) for job, future in (*group[1:], group[0]) if not _ended(future)]


def _begin(place: Workplace, job: JobRecord) -> Member:
    return Member(live(place, job))


def _ended(future: Future[Member]) -> bool:
    return future.done() and future.result().done


def _for_type(engines: Engines, place: Workplace, job: JobRecord) -> Workplace:
    """The workplace for jobs of this job's type; without an engine when there can be none, which fails the job."""
    if engines.kind == job.adapter_type:
        return place
    try:
        # The engine goes first, or it would keep the base that may have to make room.
        place = replace(place, base=None, engine=None)  # type: ignore[arg-type]
        engines.use(job.adapter_type)
    except ConfigurationError as error:
        log.error("no engine for jobs of the type %s: %s", job.adapter_type, error)
        return replace(place, base=engines.base, engine=None)
    budget = token_budget(engines.engine, place.settings.max_training_tokens)
    return replace(place, base=engines.base, engine=engines.engine, token_budget=budget)


def _claim(place: Workplace, worker: str, group: Sequence[JobRecord]) -> JobRecord | None:
    """The next job that may train beside `group`, if there is one."""
    settings = place.settings
    if group:
        full = len(group) >= settings.max_jobs_per_step or place.engine is None or not place.engine.together
        # A job whose worker died before is tried alone: the next death is then its own doing.
        if full or settings.train_sharing == "off" or any(job.attempts > 1 for job in group):
            return None
    try:
        with place.db.transaction() as tx:
            return jobs.claim(
                tx,
                base=settings.base_name,
                worker=worker,
                lease_seconds=settings.lease_seconds,
                project_id=group[0].project_id if group and settings.train_sharing == "project" else None,
                adapter_type=group[0].adapter_type if group else None,
                untried=bool(group),
            )
    except Unavailable:
        return None  # logged where it happened; the next look comes by itself
