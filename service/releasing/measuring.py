"""The life of one claimed release in this process: ask the base, or ask the tune and decide.

What the rows hold is all that it goes by, so another worker may begin it again at any moment; only what was being asked
is then asked twice. Knows no HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NoReturn, TypeVar

from rootstock import checkpoints, events, jobs, keys, models, policies, project_suites, releases
from rootstock.db import Tx
from rootstock.errors import LeaseLost, RootstockError, Unavailable
from rootstock.records import Caller, JobRecord, ModelRecord
from rootstock.release import suites
from rootstock.release.held_out import Question, prompted
from rootstock.release.verdict import CONSTANT, FEW_SHOT, START, ZERO_SHOT, Verdict, unmeasured
from rootstock.releases import Answer, Release
from rootstock.telemetry import log_context
from service.batching.asking import Asker as PatientAsker
from service.batching.life import Workplace
from service.gateway import Addressee, Gateway
from service.releasing import telling
from service.releasing.asking import Asker, AwayForNow
from service.releasing.marking import AT_ONCE, Marker
from service.releasing.reading import Plan, read

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_CHECKPOINTS = 2
"""Checkpoints before the final model that are measured beside it."""

AGAIN_SECONDS = 15.0
"""After this long a release is taken up again whose engine was away."""

SUITES_SECONDS = 3600.0
SUITE_TOKENS = 2 * suites.MAX_ANSWER_TOKENS

PROBE = 20
"""After so many questions a suite that is beyond the base is left alone: wrong answers are the longest."""

MOST_KNOWN = 128
"""Suites whose answers of bases are in memory, the longest known are dropped: each has up to a thousand."""

_known: dict[str, tuple[float, list[Answer]]] = {}
"""What bases answered to suites lately: asked once an hour, not for every job."""


async def live(place: Workplace, release: Release) -> None:
    """Bring a claimed release a step further; raises nothing that is about the release."""
    measuring = _Measuring(place, release)
    with log_context(job_id=release.job_id):
        keeping = asyncio.ensure_future(measuring.keep())
        living = asyncio.ensure_future(measuring.step())
        try:
            await asyncio.wait({keeping, living}, return_when=asyncio.FIRST_COMPLETED)
            await (living if living.done() else keeping)
        except LeaseLost as error:
            log.info("stopped: %s", error)
        except (AwayForNow, Unavailable):
            await measuring.let_go(AGAIN_SECONDS)
        except _Leaving:
            await measuring.let_go(0.0)
        except Exception:  # whatever it is, it must not end the process
            log.exception("a release could not be measured for a reason of ours")
            await measuring.give_up()
        finally:
            for task in (keeping, living):
                task.cancel()
            await asyncio.gather(keeping, living, return_exceptions=True)


class _Leaving(Exception):
    """This process is asked to stop."""


class _Measuring:
    def __init__(self, place: Workplace, release: Release) -> None:
        self._place = place
        self._release = release
        self._gateway = Gateway(place.settings, place.db, place.upstream)
        self._one_at_a_time = asyncio.Lock()

    async def keep(self) -> NoReturn:
        """Renew the lease until cancelled. Raises `LeaseLost`."""
        while True:
            await asyncio.sleep(self._place.settings.heartbeat_seconds)
            await self._store([])

    async def step(self) -> None:
        """Ask the base, or the tune; whatever the state asks for."""
        job = await self._act(lambda tx: jobs.find(tx, self._release.job_id))
        assert job is not None
        plan = await asyncio.to_thread(read, self._place.settings, self._place.store, job)
        if isinstance(plan, Verdict):
            await self._settle(job, plan)
        else:
            asker = PatientAsker(self._gateway, self._caller(), self._place.first_wait_seconds)
            with Marker(plan, asker, self._place.python()) as marker:
                work = self._baseline if self._release.state == releases.BASELINE else self._tuned
                await work(job, plan, marker)

    async def let_go(self, after_seconds: float) -> None:
        """For another worker, or this one later."""
        await self._quietly(lambda tx: releases.hand_back(tx, self._release, after_seconds=after_seconds))

    async def give_up(self) -> None:
        """After a fault of ours: later again, and for good when that keeps happening."""
        release = self._release
        if release.attempts < self._place.settings.max_attempts:
            wait = float(2**release.attempts)
            await self._quietly(lambda tx: releases.hand_back(tx, release, after_seconds=wait, silent=False))
            return

        def settle(tx: Tx) -> None:
            job = jobs.find(tx, release.job_id)
            text = "It could not be measured because of an internal error; the log of the batch worker says which."
            assert job is not None
            releases.settle(tx, job, unmeasured("server_error", text), by=release)

        await self._quietly(settle)

    async def _baseline(self, job: JobRecord, plan: Plan, marker: Marker) -> None:
        base = Addressee(job.base, job.base, None)
        await self._ask(ZERO_SHOT, base, plan.questions, plan, marker)
        shots = await self._shots(base, plan)
        if shots:
            told = [prompted(one, plan.shots[:shots]) for one in plan.questions]
            await self._ask(FEW_SHOT, base, told, plan, marker)
        if job.start_adapter is not None and job.start_model is not None:
            start = await self._act(lambda tx: models.find(tx, job.start_model or ""))
            if start is not None:
                await self._ask(START, Addressee(start.id, start.base, start), plan.questions, plan, marker)
        await self._always_the_same(plan, marker)
        for suite in await self._suites():
            await self._suite_before(suite, base)
        answers = await self._answers()
        message = telling.baseline_message(plan, answers, shots, job.seed)
        await self._act(lambda tx: releases.to_tuned(tx, self._release, message))
        log.info("%s", message)

    async def _tuned(self, job: JobRecord, plan: Plan, marker: Marker) -> None:
        tuned, steps = await self._act(lambda tx: _made(tx, job))
        if tuned is None:
            await self._settle(job, unmeasured("model_deleted", "The tuned model was deleted before it was measured."))
            return
        asked = {telling.TUNED: tuned} | steps
        for role, model in asked.items():
            await self._ask(role, Addressee(model.id, model.base, model), plan.questions, plan, marker)
        asked_of_base = await self._suites()  # once: what a project adds or deletes meanwhile changes nothing here
        answers = await self._answers()
        for suite in asked_of_base:
            if telling.knew(answers, suite):
                await self._suite(suite, "after", Addressee(tuned.id, tuned.base, tuned))
        answers = await self._answers()
        policy = await self._act(lambda tx: policies.of(tx, job.project_id))
        names = {role: model.id for role, model in asked.items()} | {ZERO_SHOT: job.base, FEW_SHOT: job.base}
        verdict = await asyncio.to_thread(
            telling.verdict,
            plan,
            answers,
            asked_of_base,
            names,
            policy=policy.release,
            seed=job.seed,
        )
        await self._settle(job, verdict)

    async def _ask(self, role: str, who: Addressee, questions: Sequence[Question], plan: Plan, marker: Marker) -> None:
        await self._put(role, who, questions, plan.max_tokens, marker.score)
        if marker.failure is not None:
            text = f"The grader of the release gate failed on an answer ({role}): {marker.failure[:500]}"
            kept, add = self._release, partial(events.add, level="warn", dedupe="measure-grader-failed")
            await self._act(lambda tx: add(tx, kept.job_id, kept.project_id, text))

    async def _always_the_same(self, plan: Plan, marker: Marker) -> None:
        """What a grader says of one answer to all questions; a metric tells that without being asked."""
        text = plan.constant
        if plan.grader is None or text is None or await self._answers_in(CONSTANT):
            return
        scores = await asyncio.gather(*(marker.score(number, text) for number in range(len(plan.questions))))
        await self._store([Answer(CONSTANT, number, text, score) for number, score in enumerate(scores)])

    async def _put(
        self,
        role: str,
        who: Addressee,
        questions: Sequence[Question],
        max_tokens: int,
        score: Callable[[int, str], Awaitable[float | None]],
    ) -> None:
        """Ask what has no answer yet; each answer is a row when the next are asked."""
        known = await self._answers_in(role)
        missing = [(number, one) for number, one in enumerate(questions) if number not in known]
        async for group in self._asker(who).each(missing, max_tokens):
            scores = await asyncio.gather(*(score(n, text) for n, text in group if text is not None))
            given = iter(scores)
            await self._store([Answer(role, n, text, None if text is None else next(given)) for n, text in group])
            if self._place.leaving():
                raise _Leaving

    async def _shots(self, base: Addressee, plan: Plan) -> int:
        """How many examples fit into the base's context before the longest question: all, or half as many, ..."""
        if not plan.shots:
            return 0
        longest = max(plan.questions, key=lambda one: one.bytes)
        count = len(plan.shots)
        while count and not await self._asker(base).fits(prompted(longest, plan.shots[:count]), plan.max_tokens):
            count //= 2
        return count

    async def _suite_before(self, suite: suites.Suite, base: Addressee) -> None:
        name = f"{base.base}/{self._place.settings.bases.get(base.base)}/{suites.digest(suite)}"
        asked_at, kept = _known.get(name, (float("-inf"), []))
        if time.monotonic() - asked_at < SUITES_SECONDS:
            await self._store(kept)
            return
        role = telling.suite_role(suite, "before")
        await self._suite(suite, "before", base, most=PROBE)
        if telling.may_know(await self._answers_in(role)):
            await self._suite(suite, "before", base)
        found = await self._answers_in(role)
        _know(name, list(found.values()))

    async def _suite(self, suite: suites.Suite, when: str, who: Addressee, *, most: int | None = None) -> None:
        role = telling.suite_role(suite, when)
        questions = [Question(number, one.answer, one.messages) for number, one in enumerate(suite.questions, start=1)]

        async def score(number: int, text: str) -> float:
            return suites.scores(suite.questions[number], text)

        await self._put(role, who, questions[:most], SUITE_TOKENS, score)

    async def _suites(self) -> Sequence[suites.Suite]:
        own = await self._act(lambda tx: project_suites.read(tx, self._release.project_id))
        return (*await asyncio.to_thread(suites.all_of, self._place.settings.suites_dir), *own)

    def _asker(self, who: Addressee) -> Asker:
        at_once = min(AT_ONCE, self._place.settings.batch_concurrency)
        return Asker(self._gateway, self._caller(), who, at_once=at_once, wait=self._place.first_wait_seconds)

    def _caller(self) -> Caller:
        release = self._release
        return Caller(release.project_id, self._place.settings.organization, release.job_id, keys.MEMBER)

    async def _answers(self) -> dict[str, dict[int, Answer]]:
        return await self._act(lambda tx: releases.answers(tx, self._release.job_id))

    async def _answers_in(self, role: str) -> dict[int, Answer]:
        return (await self._act(lambda tx: releases.answers(tx, self._release.job_id, role))).get(role, {})

    async def _settle(self, job: JobRecord, verdict: Verdict) -> None:
        await self._act(lambda tx: releases.settle(tx, job, verdict, by=self._release))
        log.info("verdict: %s %s", verdict.verdict, [reason.code for reason in verdict.reasons])

    async def _store(self, answers: Sequence[Answer]) -> None:
        seconds = self._place.settings.lease_seconds
        self._release = await self._act(lambda tx: releases.store(tx, self._release, answers, lease_seconds=seconds))

    async def _quietly(self, work: Callable[[Tx], object]) -> None:
        try:
            await self._act(work)
        except RootstockError as error:  # the lease runs out by itself
            log.info("could not let go: %s", error.message)

    async def _act(self, work: Callable[[Tx], T]) -> T:
        def transact() -> T:
            with self._place.db.transaction() as tx:
                return work(tx)

        async with self._one_at_a_time:
            return await asyncio.to_thread(transact)


def _know(name: str, answers: list[Answer]) -> None:
    now = time.monotonic()
    for old in [old for old, (asked_at, _) in _known.items() if now - asked_at >= SUITES_SECONDS]:
        _known.pop(old, None)
    while len(_known) >= MOST_KNOWN:
        _known.pop(next(iter(_known)))
    _known[name] = (now, answers)


def _made(tx: Tx, job: JobRecord) -> tuple[ModelRecord | None, dict[str, ModelRecord]]:
    """The tuned model, and the last checkpoints before it by their role."""
    found = checkpoints.list_page(tx, job.id, limit=MOST_CHECKPOINTS + 1, after=None).data
    tuned, steps = None, {}
    for checkpoint in found:
        model = models.find(tx, checkpoint.model_name)
        if model is not None and checkpoint.adapter_id == job.adapter_id:
            tuned = model
        elif model is not None:
            steps[f"checkpoint-{checkpoint.step_number}"] = model
    return tuned, steps
