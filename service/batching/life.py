"""The life of one claimed batch in this process: read, ask, write the files; and every way it can be left.

Each status has one step, and what a step finds in the rows is all it goes by, so any of them may be begun again by
another process. A fault of ours costs the batch an attempt and ends neither it nor the process.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rootstock import batches, keys, waiting
from rootstock.db import Database, Tx
from rootstock.errors import LeaseLost, ModelHeld, NotFound, ObjectNotFound, Unavailable
from rootstock.grading import PythonRunner, open_runner
from rootstock.records import BatchRecord, BatchResult, BatchStatus, Caller
from rootstock.settings import Settings
from rootstock.storage import Store
from rootstock.telemetry import log_context
from rootstock.workdir import workdir
from service.batching import reading, writing
from service.batching.asking import Asker
from service.batching.held import Held
from service.deps import parse
from service.gateway import Gateway
from service.replicas import Upstream
from service.wire_batches import BatchLine

log = logging.getLogger(__name__)

T = TypeVar("T")

GROUP_SECONDS = 0.2
"""Results are committed together, this often at most."""

GROUP_RESULTS = 256
"""Results that may wait for their commit; then no more lines are asked for."""

STORE_WAIT_SECONDS = 2.0


class HandBack(Exception):
    """This process is asked to stop, or it is another batch's turn."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a worker process has at hand for every batch."""

    settings: Settings
    db: Database
    store: Store
    upstream: Upstream
    leaving: Callable[[], bool]
    turn_seconds: float = 120.0
    """After this long another batch that waits gets its turn, so that a long one holds up nobody for hours."""
    first_wait_seconds: float = 1.0

    def python(self, children: int = 2) -> PythonRunner:
        """Runs the sources of Python graders; for the caller to close."""
        return open_runner(self.settings.data_dir / "wasm", self.settings.python_graders, children=children)


async def live(place: Workplace, batch: BatchRecord) -> None:
    """Bring a claimed batch to its end, or as far as this process gets; raises nothing that is about the batch."""
    settings = place.settings
    lease, beat = settings.lease_seconds, settings.heartbeat_seconds

    def write(tx: Tx, record: BatchRecord, results: Sequence[BatchResult]) -> BatchRecord:
        return batches.write(tx, record, results, lease_seconds=lease)

    held = Held(place.db, batch, write, lease_seconds=lease, heartbeat_seconds=beat)
    with log_context(batch_id=batch.id), workdir(settings.data_dir / "batches") as folder:
        keeping = asyncio.ensure_future(held.keep())
        living = asyncio.ensure_future(_Life(place, held, folder).to_its_end())
        try:
            await asyncio.wait({keeping, living}, return_when=asyncio.FIRST_COMPLETED)
            await (living if living.done() else keeping)
            # The files hold the results now. Whoever dies before this leaves it to the sweep.
            while await held.act(lambda tx: batches.forget_results(tx, batch.id)):
                pass
        except LeaseLost as error:
            log.info("stopped: %s", error)
        except HandBack:
            await _let_go(held, lambda tx: batches.hand_back(tx, held.record))
        except Exception:  # whatever it is, it must not end the process
            log.exception("the batch could not go on for a reason of ours")
            await _let_go(held, lambda tx: batches.requeue(tx, held.record, settings.max_attempts, silent=False))
        finally:
            for task in (keeping, living):
                task.cancel()
            await asyncio.gather(keeping, living, return_exceptions=True)


async def _let_go(held: Held[BatchRecord], how: Callable[[Tx], object]) -> None:
    try:
        await held.act(how)
    except LeaseLost as error:
        log.info("stopped: %s", error)


class _Life:
    def __init__(self, place: Workplace, held: Held[BatchRecord], folder: Path) -> None:
        self._place = place
        self._held = held
        self._path = folder / "input.jsonl"
        self._caller = Caller(
            project_id=held.record.project_id,
            organization_id=place.settings.organization,
            key_id=held.record.id,
            role=keys.MEMBER,
        )
        self._gateway = Gateway(place.settings, place.db, place.upstream)
        self._turn_ends = time.monotonic() + place.turn_seconds
        self._turn_is_over = False

    async def to_its_end(self) -> None:
        """One step after the other, by what the status asks for."""
        while not (status := self._held.record.status).terminal:
            if self._place.leaving():
                raise HandBack
            if status is BatchStatus.VALIDATING:
                await self._validate()
            elif status is BatchStatus.IN_PROGRESS:
                await self._ask()
            else:
                await self._finish()
            if status is not self._held.record.status:
                log.info("%s -> %s", status, self._held.record.status)

    async def _validate(self) -> None:
        batch = self._held.record
        verdict = await self._verdict()
        if verdict.errors:
            await self._held.move(lambda tx: batches.refuse(tx, batch, verdict.errors))
        else:
            await self._held.move(lambda tx: batches.begin(tx, batch, model=verdict.model, total=verdict.total))

    async def _verdict(self) -> reading.Verdict:
        batch, settings = self._held.record, self._place.settings
        if not await self._fetched():
            verdict = reading.Verdict()
            verdict.fault("invalid_file", "The input file's content is no longer stored.", "input_file_id")
            return verdict
        verdict = await asyncio.to_thread(
            reading.judge,
            self._path,
            endpoint=batch.endpoint,
            max_lines=settings.max_batch_lines,
            max_line_bytes=settings.max_line_bytes,
        )
        if not verdict.errors:
            try:
                await self._patient(lambda: self._gateway.addressee(self._caller, verdict.model))
            except (NotFound, ModelHeld) as error:
                verdict.fault(error.code or "model_not_found", error.message, "body.model", 1)
        return verdict

    async def _ask(self) -> None:
        """Put lines to the model until each has its result, or the status, the time or this process says stop."""
        place, held = self._place, self._held
        await held.store([])  # the time may be over before it begins
        if not self._goes_on():
            return
        if not await self._fetched():
            raise RuntimeError(f"{held.record.input_object} is gone although a batch reads it")
        done = await held.act(lambda tx: batches.done(tx, held.record.id))
        asker = Asker(self._gateway, self._caller, place.first_wait_seconds)
        results: asyncio.Queue[BatchResult] = asyncio.Queue(GROUP_RESULTS)
        rest = ((number, data) for number, data in self._lines() if number not in done)

        async def ask() -> None:
            for number, data in rest:
                await results.put(await asker.answer(held.record.endpoint, number, data))
                if self._turn_is_over:
                    return

        async def ask_all() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(place.settings.batch_concurrency):
                    group.create_task(ask())

        asking = asyncio.ensure_future(ask_all())
        try:
            while self._goes_on() and not asking.done() and not place.leaving():
                await asyncio.wait({asking}, timeout=GROUP_SECONDS)
                await self._store(results)
                await self._look_at_the_clock()
        finally:
            asking.cancel()
            (ended,) = await asyncio.gather(asking, return_exceptions=True)
        await self._store(results)
        if self._goes_on():
            if ended is None and next(rest, None) is None:
                await held.move(lambda tx: batches.finalize(tx, held.record))
            elif ended is None or place.leaving():
                raise HandBack
            else:
                raise ended

    def _goes_on(self) -> bool:
        return self._held.record.status is BatchStatus.IN_PROGRESS

    async def _store(self, results: asyncio.Queue[BatchResult]) -> None:
        if group := [results.get_nowait() for _ in range(results.qsize())]:
            await self._held.store(group)

    async def _look_at_the_clock(self) -> None:
        # What is being answered is waited for: a turn shorter than an answer must get somewhere, too.
        if time.monotonic() > self._turn_ends and not self._turn_is_over:
            self._turn_ends = time.monotonic() + self._place.turn_seconds
            self._turn_is_over = await self._held.act(waiting.another)

    async def _finish(self) -> None:
        """Write the files and end; every result is a row by now."""
        held, store = self._held, self._place.store
        batch = held.record  # as it is now: when it is cancelled meanwhile, the end does not count
        done = await held.act(lambda tx: batches.done(tx, batch.id))
        missing = batch.total > len(done) and await self._fetched()

        def write() -> tuple[writing.Written | None, writing.Written | None]:
            output = writing.store_lines(store, batch, "output", self._bodies(ok=True))
            return output, writing.store_lines(store, batch, "error", self._errors(done, missing=missing))

        output, error = await self._patient(write)

        def end(tx: Tx) -> BatchRecord | None:
            ids = {"output_file": output.id if output else None, "error_file": error.id if error else None}
            moved = batches.end(tx, batch, **ids)
            for written in filter(None, (output, error) if moved else ()):
                writing.record(tx, batch, written)
            return moved

        await held.move(end)

    def _bodies(self, *, ok: bool) -> Iterator[str]:
        last = 0
        while True:
            with self._place.db.read() as tx:
                found = batches.results(tx, self._held.record.id, ok=ok, after=last)
            if not found:
                return
            yield from (result.body for result in found)
            last = found[-1].line

    def _errors(self, done: set[int], *, missing: bool) -> Iterator[str]:
        yield from self._bodies(ok=False)
        if missing:  # never so for a batch that was cancelled before it was read
            cancelled = self._held.record.status is BatchStatus.CANCELLING
            for number, data in self._lines():
                if number not in done:
                    yield writing.never_asked(parse(BatchLine, data).custom_id, cancelled=cancelled)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        for number, data in reading.lines(self._path, self._place.settings.max_line_bytes):
            assert data is not None  # they were judged
            yield number, data

    async def _fetched(self) -> bool:
        """Whether the input is on this disk now: a stream from the store would have to stay open for hours."""
        partial = self._path.with_suffix(".partial")

        def fetch() -> bool:
            try:
                with partial.open("wb") as file:
                    file.writelines(self._place.store.get(self._held.record.input_object))
            except ObjectNotFound:
                return False
            partial.rename(self._path)
            return True

        return self._path.exists() or await self._patient(fetch)

    async def _patient(self, work: Callable[[], T]) -> T:
        """Something with the store or the database, in a thread, again and again while they are away."""
        while True:
            try:
                return await asyncio.to_thread(work)
            except Unavailable as error:
                log.warning("trying again in %.0f s: %s", STORE_WAIT_SECONDS, error)
            await asyncio.sleep(STORE_WAIT_SECONDS)
            if self._place.leaving():
                raise HandBack
