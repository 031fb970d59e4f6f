"""The life of one claimed distillation in this process: read, ask, write the file; and every way it can be left.

Each status has one step, and a step goes by the rows only, so any of them may be begun again by another process: what a
teacher answered is never asked again. A fault of ours costs the distillation an attempt and ends neither it nor the
process.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rootstock import distillations, keys, waiting
from rootstock.db import Tx
from rootstock.distil import Answer, Outcome, draw, look
from rootstock.distil.records import Distillation, Example, Judged, Status
from rootstock.errors import LeaseLost, ObjectNotFound, Unavailable
from rootstock.records import Caller
from rootstock.telemetry import log_context
from rootstock.usage import Amounts
from rootstock.workdir import workdir
from service.batching.held import Held
from service.batching.life import GROUP_RESULTS, GROUP_SECONDS, STORE_WAIT_SECONDS, HandBack, Workplace
from service.distilling import sources, writing
from service.distilling.grading import Grading
from service.distilling.teachers import Foreign, Hosted, Teacher, TeacherGone
from service.gateway import Gateway
from service.outbound import Outbound, networks

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_AT_ONCE = 500
"""Prompts that are written down in one transaction."""


async def take(place: Workplace, worker: str) -> bool:
    """Claim a distillation and bring it to its end, or as far as this process gets; false when none waits."""
    run = await asyncio.to_thread(_claim, place, worker)
    if run is not None:
        await live(place, run)
    return run is not None


def _claim(place: Workplace, worker: str) -> Distillation | None:
    settings = place.settings
    try:
        with place.db.transaction() as tx:
            return distillations.claim(
                tx, worker=worker, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts
            )
    except Unavailable:
        return None  # logged where it happened; the next look comes by itself


async def live(place: Workplace, run: Distillation) -> None:
    """Bring a claimed distillation to its end, or as far as this process gets; raises nothing that is about it."""
    lease, beat = place.settings.lease_seconds, place.settings.heartbeat_seconds

    def renew(tx: Tx, record: Distillation, judged: Sequence[Judged]) -> Distillation:
        return distillations.renew(tx, record, judged, lease_seconds=lease)

    held = Held(place.db, run, renew, lease_seconds=lease, heartbeat_seconds=beat)
    with log_context(distillation_id=run.id), workdir(place.settings.data_dir / "batches") as folder:
        life = _Life(place, held, folder)
        keeping = asyncio.ensure_future(held.keep())
        living = asyncio.ensure_future(life.to_its_end())
        try:
            await asyncio.wait({keeping, living}, return_when=asyncio.FIRST_COMPLETED)
            await (living if living.done() else keeping)
        except LeaseLost as error:
            log.info("stopped: %s", error)
        except HandBack:
            await _let_go(held, distillations.hand_back)
        except Exception:  # whatever it is, it must not end the process
            log.exception("the distillation could not go on for a reason of ours")
            await _let_go(held, distillations.requeue)
        finally:
            for task in (keeping, living):
                task.cancel()
            await asyncio.gather(keeping, living, return_exceptions=True)
            life.close()


async def _let_go(held: Held[Distillation], how: Callable[[Tx, Distillation], None]) -> None:
    try:
        await held.act(lambda tx: how(tx, held.record))
    except LeaseLost as error:
        log.info("stopped: %s", error)


class _Life:
    def __init__(self, place: Workplace, held: Held[Distillation], folder: Path) -> None:
        self._place = place
        self._held = held
        self._path = folder / "prompts.jsonl"
        run, settings = held.record, place.settings
        self._caller = Caller(run.project_id, settings.organization, run.id, keys.MEMBER)
        self._gateway = Gateway(settings, place.db, place.upstream)
        self._turn_ends = time.monotonic() + place.turn_seconds
        self._turn_is_over = False
        wanted = run.spec["filters"].get("grader")
        self._grading = Grading(self._gateway, self._caller, wanted, place.python()) if wanted else None

    def close(self) -> None:
        """Give back what it holds beside rows."""
        if self._grading is not None:
            self._grading.close()

    async def to_its_end(self) -> None:
        """One step after the other, by what the status asks for."""
        steps = {
            Status.QUEUED: self._collect,
            Status.IN_PROGRESS: self._ask,
            Status.FINALIZING: self._finish,
        }
        while not (status := self._held.record.status).terminal:
            if self._place.leaving():
                raise HandBack
            await steps[status]()
            log.info("%s -> %s", status, self._held.record.status)

    async def _collect(self) -> None:
        """Write down which prompts are asked."""
        held, run = self._held, self._held.record
        if run.source_object is None:
            source = sources.of_completions(self._place.db, run)
        elif await self._fetched():
            source = sources.of_file(self._path, run, self._place.settings.max_line_bytes)
        else:
            gone = "The file's content is no longer stored."
            await held.move(lambda tx: distillations.fail(tx, run, "invalid_file", gone))
            return
        budget = run.spec["budget"]
        drawn = await self._patient(lambda: draw(source, budget["max_examples"], run.spec["seed"]))
        await held.act(lambda tx: distillations.forget_prompts(tx, run))
        chosen = drawn.of(source())
        while group := await asyncio.to_thread(lambda: list(itertools.islice(chosen, READ_AT_ONCE))):
            await held.act(lambda tx, group=group: distillations.add(tx, run, group))  # type: ignore[misc]
        await held.move(lambda tx: distillations.begin(tx, run, drawn))

    async def _ask(self) -> None:
        """Bring every example to its outcome, or stop when the status, the budget or this process says so."""
        place, held = self._place, self._held
        teacher = self._teacher()
        waiting = _Waiting(place, held.record.id)
        judged: asyncio.Queue[Judged] = asyncio.Queue(GROUP_RESULTS)

        most = held.record.spec["budget"]["max_tokens"]
        spent = sum(held.record.usage.values())

        async def ask() -> None:
            nonlocal spent  # also what is not stored yet: tokens beyond the budget are somebody's money
            while not self._turn_is_over and (most is None or spent < most):
                if (example := await waiting.next()) is None:
                    return
                one = await self._judge(teacher, example)
                spent += one.tokens.prompt_tokens + one.tokens.completion_tokens
                await judged.put(one)

        async def ask_all() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(place.settings.batch_concurrency):
                    group.create_task(ask())

        asking = asyncio.ensure_future(ask_all())
        try:
            while self._goes_on() and not asking.done() and not place.leaving():
                await asyncio.wait({asking}, timeout=GROUP_SECONDS)
                await self._store(judged)
                await self._look_at_the_clock()
        finally:
            asking.cancel()
            (ended,) = await asyncio.gather(asking, return_exceptions=True)
        await self._store(judged)
        if self._goes_on():
            await self._leave_asking(ended)

    async def _leave_asking(self, ended: BaseException | None) -> None:
        held = self._held
        gone = ended.split(TeacherGone)[0] if isinstance(ended, BaseExceptionGroup) else None
        if gone is not None:
            error = {"code": "teacher_unavailable", "message": str(_first(gone))}
            await held.move(lambda tx: distillations.finalize(tx, held.record, stopped_by="teacher", error=error))
        elif ended is None and held.record.done == held.record.total:
            await held.move(lambda tx: distillations.finalize(tx, held.record))
        elif ended is None or self._place.leaving():
            raise HandBack
        else:
            raise ended

    async def _judge(self, teacher: Teacher | None, example: Example) -> Judged:
        """What becomes of one example; asks for the answer unless it came with the prompt."""
        prompt, answer, tokens = example.prompt, example.answer, Amounts()
        own: dict[str, Amounts] = {}
        if answer is None:
            assert teacher is not None
            told = await teacher.answer(prompt)
            answer, tokens, own = told.answer, told.tokens, dict(told.own)
        filters = self._held.record.spec["filters"]
        outcome = look(prompt, answer, refusals=filters["refusals"], pii=filters.get("pii", False))
        if outcome is Outcome.KEPT and self._grading is not None:
            outcome, score, spent = await self._grading.run(prompt, answer)
            answer = Answer(answer.message, answer.finish_reason, answer.error, score)
            for model, took in spent.items():
                own[model] = own.get(model, Amounts()) + took
                tokens += took
        return Judged(example.number, outcome, answer, tokens, own)

    def _teacher(self) -> Teacher | None:
        run, place = self._held.record, self._place
        if run.spec["teacher"] is None:
            return None
        if "base_url" not in run.spec["teacher"]:
            return Hosted(self._gateway, self._caller, run.spec, place.first_wait_seconds)
        return Foreign(
            Outbound(networks(place.settings.webhook_allowed_networks)),
            run.spec,
            run.teacher_key,
            seconds=place.settings.inference_timeout_seconds,
            first_wait_seconds=place.first_wait_seconds,
        )

    async def _finish(self) -> None:
        """Leave out what is alike, write the files and end."""
        held, place = self._held, self._place
        run = held.record
        made = await self._patient(lambda: writing.write(place.db, place.store, run, place.settings.max_line_bytes))
        if made.training is None:
            reason = run.error or {"code": "no_examples", "message": "No answer was left to learn from; see 'counts'."}
            await held.move(lambda tx: distillations.fail(tx, run, reason["code"], reason["message"], made.outcomes))
        else:
            await held.move(lambda tx: writing.record(tx, run, made))

    def _goes_on(self) -> bool:
        return self._held.record.status is Status.IN_PROGRESS

    async def _store(self, judged: asyncio.Queue[Judged]) -> None:
        if group := [judged.get_nowait() for _ in range(judged.qsize())]:
            await self._held.store(group)

    async def _look_at_the_clock(self) -> None:
        if time.monotonic() > self._turn_ends and not self._turn_is_over:
            self._turn_ends = time.monotonic() + self._place.turn_seconds
            self._turn_is_over = await self._held.act(waiting.another)

    async def _fetched(self) -> bool:
        """Whether the prompts are on this disk now."""

        def fetch() -> bool:
            try:
                with self._path.open("wb") as file:
                    file.writelines(self._place.store.get(str(self._held.record.source_object)))
            except ObjectNotFound:
                return False
            return True

        return await self._patient(fetch)

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


class _Waiting:
    """The examples that came to no outcome yet, for several tasks, read page by page."""

    def __init__(self, place: Workplace, run_id: str) -> None:
        self._db = place.db
        self._run_id = run_id
        self._last = 0
        self._page: list[Example] = []
        self._reading = asyncio.Lock()

    async def next(self) -> Example | None:
        """The next one; `None` at the end."""
        async with self._reading:
            if not self._page:
                self._page = (await asyncio.to_thread(self._read))[::-1]
            return self._page.pop() if self._page else None

    def _read(self) -> list[Example]:
        with self._db.read() as tx:
            page = distillations.unsettled(tx, self._run_id, after=self._last)
        self._last = page[-1].number if page else self._last
        return page


def _first(group: BaseExceptionGroup[TeacherGone]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
