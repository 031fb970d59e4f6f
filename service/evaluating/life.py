"""The life of one claimed run in this process: read the items, sample and grade them; and every way it can be left.

What a step finds in the rows is all it goes by, so any of them may be begun again by another process. A fault of ours
costs the run an attempt and ends neither it nor the process.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rootstock import keys, waiting
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, LeaseLost, NotFound, Unavailable
from rootstock.evals import criteria, items, runs
from rootstock.evals.records import Outcome, RunRecord, RunStatus
from rootstock.records import Caller
from rootstock.telemetry import log_context
from rootstock.workdir import workdir
from service.batching.asking import Asker
from service.batching.held import Held
from service.batching.life import GROUP_SECONDS, STORE_WAIT_SECONDS, HandBack, Workplace
from service.evaluating.grading import Evaluator
from service.evaluating.questions import Questions
from service.evaluating.reading import Reader
from service.gateway import Gateway

log = logging.getLogger(__name__)

GROUP_RESULTS = 64
"""Results that may wait for their commit; then no more items are sampled."""

PYTHON_PROCESSES = 2
"""Sources of Python graders that run at a time."""

UNUSABLE = "invalid_data_source"
"""The code of a run without usable items."""


async def take(place: Workplace, worker: str) -> bool:
    """Claim a run and bring it to its end, or as far as this process gets; false when none waits."""
    run = await asyncio.to_thread(_claim, place, worker)
    if run is not None:
        await live(place, run)
    return run is not None


def _claim(place: Workplace, worker: str) -> RunRecord | None:
    try:
        with place.db.transaction() as tx:
            return runs.claim(tx, worker=worker, lease_seconds=place.settings.lease_seconds)
    except Unavailable:
        return None  # logged where it happened; the next look comes by itself


async def live(place: Workplace, run: RunRecord) -> None:
    """Bring a claimed run to its end, or as far as this process gets; raises nothing that is about the run."""
    settings = place.settings

    def write(tx: Tx, row: RunRecord, outcomes: Sequence[Outcome]) -> RunRecord:
        return runs.write(tx, row, outcomes, lease_seconds=settings.lease_seconds)

    lease, beat = settings.lease_seconds, settings.heartbeat_seconds
    held = Held(place.db, run, write, lease_seconds=lease, heartbeat_seconds=beat)
    with log_context(run_id=run.id), workdir(settings.data_dir / "evals") as folder:
        keeping = asyncio.ensure_future(held.keep())
        living = asyncio.ensure_future(_Life(place, held, folder).to_its_end())
        try:
            await asyncio.wait({keeping, living}, return_when=asyncio.FIRST_COMPLETED)
            await (living if living.done() else keeping)
        except LeaseLost as error:
            log.info("stopped: %s", error)
        except HandBack:
            await _let_go(held, lambda tx: runs.hand_back(tx, held.record))
        except Exception:  # whatever it is, it must not end the process
            log.exception("the run could not go on for a reason of ours")
            await _let_go(held, lambda tx: runs.requeue(tx, held.record, settings.max_attempts, silent=False))
        finally:
            for task in (keeping, living):
                task.cancel()
            await asyncio.gather(keeping, living, return_exceptions=True)


async def _let_go(held: Held[RunRecord], how: Callable[[Tx], object]) -> None:
    try:
        await held.act(how)
    except LeaseLost as error:
        log.info("stopped: %s", error)


class _Life:
    def __init__(self, place: Workplace, held: Held[RunRecord], folder: Path) -> None:
        self._place = place
        self._held = held
        self._reader = Reader(place.db, place.store, folder, place.settings.max_line_bytes)
        settings, run = place.settings, held.record
        caller = Caller(
            project_id=run.project_id, organization_id=settings.organization, key_id=run.id, role=keys.MEMBER
        )
        self._asker = Asker(Gateway(settings, place.db, place.upstream), caller, place.first_wait_seconds)
        # As many at a time as the project may have anywhere.
        self._width = min(settings.batch_concurrency, settings.concurrent_requests or settings.batch_concurrency)
        self._turn_ends = time.monotonic() + place.turn_seconds
        self._turn_is_over = False

    async def to_its_end(self) -> None:
        """One step after the other, by what the status asks for."""
        if not await self._fetched():
            return
        while not (status := self._held.record.status).terminal:
            if self._place.leaving():
                raise HandBack
            await self._grade()
            if status is not self._held.record.status:
                log.info("%s -> %s", status, self._held.record.status)

    async def _fetched(self) -> bool:
        """Whether the items are here; a run without usable ones has failed by then."""
        run, held = self._held.record, self._held
        try:
            total = await self._counted(run)
        except NotFound:
            await held.store([])  # its eval was deleted, and the run with it: the lease is lost
            raise
        except InvalidRequest as error:
            why = error.message
            await held.move(lambda tx: runs.fail(tx, run, UNUSABLE, why))
            return False
        if run.status is RunStatus.QUEUED:
            await held.move(lambda tx: runs.begin(tx, run, total=total))
        return True

    async def _counted(self, run: RunRecord) -> int:
        """How many items there are, again and again while the store or the database is away."""
        while True:
            try:
                return await asyncio.to_thread(self._reader.fetch, run)
            except Unavailable as error:
                log.warning("trying again in %.0f s: %s", STORE_WAIT_SECONDS, error)
            await asyncio.sleep(STORE_WAIT_SECONDS)
            if self._place.leaving():
                raise HandBack

    async def _grade(self) -> None:
        """Sample and grade until each item has its result, or the status or this process says stop."""
        run = self._held.record
        done = await self._held.act(lambda tx: items.done(tx, run.id))
        rest = (item for item in self._reader.items(run) if item.number not in done)
        outcomes: asyncio.Queue[Outcome] = asyncio.Queue(GROUP_RESULTS)
        with self._place.python(PYTHON_PROCESSES) as python:
            threads = ThreadPoolExecutor(self._width, thread_name_prefix="grading")
            graders = await asyncio.to_thread(criteria.compiled, run.testing_criteria, python)
            evaluator = Evaluator(self._asker, Questions(run.data_source), graders, threads)

            async def work() -> None:
                for item in rest:
                    await outcomes.put(await evaluator.outcome(item))
                    if self._turn_is_over or self._place.leaving():
                        return

            async def work_all() -> None:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._width):
                        group.create_task(work())

            working = asyncio.ensure_future(work_all())
            try:
                while not working.done() and not self._held.record.status.terminal and not self._place.leaving():
                    await asyncio.wait({working}, timeout=GROUP_SECONDS)
                    await self._store(outcomes)
                    await self._look_at_the_clock()
            finally:
                working.cancel()
                (ended,) = await asyncio.gather(working, return_exceptions=True)
                threads.shutdown(wait=False, cancel_futures=True)
        await self._store(outcomes)
        if ended is None and next(rest, None) is None:
            await self._held.move(lambda tx: runs.complete(tx, self._held.record))
        elif ended is None or self._place.leaving():
            raise HandBack
        else:
            raise ended

    async def _store(self, outcomes: asyncio.Queue[Outcome]) -> None:
        if group := [outcomes.get_nowait() for _ in range(outcomes.qsize())]:
            await self._held.store(sorted(group, key=lambda outcome: outcome.number))

    async def _look_at_the_clock(self) -> None:
        # What is being answered is waited for: a turn shorter than an answer must get somewhere, too.
        if time.monotonic() > self._turn_ends and not self._turn_is_over:
            self._turn_ends = time.monotonic() + self._place.turn_seconds
            self._turn_is_over = await self._held.act(waiting.another)
