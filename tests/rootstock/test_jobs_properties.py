"""Random lives of jobs: whatever clients, workers that die, and lost messages do in any order, the rules hold."""

import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any, ClassVar, NamedTuple

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from rootstock import db, interruptions, jobs, publish, tables
from rootstock.db import Database, Tx
from rootstock.errors import InvalidRequest, JobFailure, LeaseLost
from rootstock.records import JobRecord, JobStatus
from tests.rootstock import making

# Written out here, not taken from `jobs.MOVES`: a change of the table must be a change of two places.
ALLOWED = {
    ("validating_files", "queued"),
    ("validating_files", "failed"),
    ("validating_files", "cancelled"),
    ("queued", "running"),
    ("queued", "paused"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "paused"),
    ("running", "finalizing"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("paused", "queued"),
    ("paused", "cancelled"),
    ("finalizing", "succeeded"),
    ("finalizing", "failed"),
    ("finalizing", "cancelled"),
}
BROKE = JobFailure("server_error", "It broke.")
MAX_ATTEMPTS = 3


def test_the_table_of_moves_is_the_contract() -> None:
    assert {(str(source), str(to)) for source, targets in jobs.MOVES.items() for to in targets} == ALLOWED
    assert set(jobs.MOVES) == set(JobStatus)


ACTIONS = """
    submit submit judge judge judge reject cancel cancel pause pause resume resume resume
    claim claim claim renew checkpoint checkpoint checkpoint finalize finalize fail hand_back hand_back
    verify verify verify give_up_verifying recover ring lose_every_bell fall_silent fall_silent
""".split()
"""Repeated ones happen more often: lives should not all end early."""


class Seen(NamedTuple):
    """What an observer beside the code under test reads of a job."""

    id: str
    status: JobStatus
    want: str
    fence: int
    attempts: int
    adapter_id: str | None
    fine_tuned_model: str | None
    error: str | None
    finished_at: float | None


class Lives(RuleBasedStateMachine):
    """Two workers, impatient owners and a sweep, on one database; `seen` is what the last look showed.

    One rule with many actions, because Hypothesis draws rules unevenly and most lives would end untrained.
    """

    database: ClassVar[Database]
    observer: ClassVar[sqlite3.Connection]
    steps: ClassVar[int]
    reached: ClassVar[set[tuple[str, str]]]

    def __init__(self) -> None:
        super().__init__()
        with self.database.transaction() as tx:
            for table in reversed(tables.metadata.sorted_tables):
                tx.execute(table.delete())
            self.training = making.upload(tx)
        self.seen: dict[str, Seen] = {}
        self.leases: list[JobRecord] = []
        self.turn = 0

    @rule(seed=st.integers(0, 2**32 - 1))
    def act(self, seed: int) -> None:
        self.turn += 1
        draw = Random(f"{seed} {self.turn}")  # Hypothesis likes to repeat numbers; a repeated action does little
        action = draw.choice(ACTIONS)
        note(action)
        getattr(self, action)(draw)

    def any_job(self, draw: Random, *likely: JobStatus) -> Seen | None:
        """Most often one for which something should happen, sometimes any other."""
        wanted = [job for job in self.seen.values() if job.status in likely]
        others = list(self.seen.values())
        among = wanted if wanted and draw.random() < 0.8 else others
        return draw.choice(among) if among else None

    # What owners do.

    def submit(self, draw: Random) -> None:
        with self.database.transaction() as tx:
            making.submit(tx, training=self.training)

    def cancel(self, draw: Random) -> None:
        job = self.any_job(draw, draw.choice([JobStatus.RUNNING, JobStatus.FINALIZING, *JobStatus]))
        if job is None:
            return
        try:
            with self.database.transaction() as tx:
                jobs.cancel(tx, "proj_a", job.id)
        except InvalidRequest:
            assert job.status.terminal
        else:
            assert not job.status.terminal

    def pause(self, draw: Random) -> None:
        job = self.any_job(draw, JobStatus.RUNNING, JobStatus.QUEUED)
        if job is not None:
            may = job.status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED)
            self.ask(interruptions.pause, job, "paused" if may else None)

    def resume(self, draw: Random) -> None:
        paused = [job for job in self.seen.values() if self.shown(job) == "paused"]
        job = draw.choice(paused) if paused and draw.random() < 0.8 else self.any_job(draw)
        if job is not None:
            self.ask(interruptions.resume, job, "queued" if self.shown(job) == "paused" else None)

    def ask(self, act: Callable[[Tx, str, str], JobRecord], job: Seen, becomes: str | None) -> None:
        """The answer shows the new status at once, whatever the worker is doing; or the request is refused."""
        try:
            with self.database.transaction() as tx:
                answer = act(tx, "proj_a", job.id)
        except InvalidRequest:
            assert becomes is None
        else:
            assert answer.shown_status == becomes

    @staticmethod
    def shown(job: Seen) -> str:
        asked = {"pause": "paused", "resume": "queued"} if job.status is JobStatus.RUNNING else {}
        return asked.get(job.want, job.status.wire)

    # What the service does, any of its replicas, as often as it likes.

    def judge(self, draw: Random) -> None:
        self.decide(draw, JobStatus.VALIDATING_FILES, lambda tx, job: jobs.to_queued(tx, job.id))

    def reject(self, draw: Random) -> None:
        status = JobStatus.VALIDATING_FILES
        self.decide(draw, status, lambda tx, job: jobs.fail_unclaimed(tx, job.id, BROKE, from_status=status))

    def verify(self, draw: Random) -> None:
        self.decide(draw, JobStatus.FINALIZING, lambda tx, job: publish.succeed(tx, job.id))

    def give_up_verifying(self, draw: Random) -> None:
        status = JobStatus.FINALIZING
        self.decide(draw, status, lambda tx, job: jobs.fail_unclaimed(tx, job.id, BROKE, from_status=status))
        with self.database.transaction() as tx:
            publish.withdraw_unpublished(tx)

    def decide(self, draw: Random, source: JobStatus, act: Callable[[Tx, Seen], bool]) -> None:
        job = self.any_job(draw, source)
        if job is not None:
            with self.database.transaction() as tx:
                assert act(tx, job) == (job.status is source)

    def recover(self, draw: Random) -> None:
        with self.database.transaction() as tx:
            for job in interruptions.expired_leases(tx):
                assert interruptions.requeue(tx, job, MAX_ATTEMPTS) is not None
            tx.execute(tables.jobs.update().values(not_before=db.now()))  # waits are another test's subject

    def ring(self, draw: Random) -> None:
        with self.database.transaction() as tx:
            for job in jobs.unrung(tx, 20):
                jobs.mark_rung(tx, job.id)

    # What fails.

    def lose_every_bell(self, draw: Random) -> None:
        with self.database.transaction() as tx:
            tx.execute(tables.jobs.update().where(tables.jobs.c.rung_at.is_not(None)).values(rung_at=db.now() - 60))

    def fall_silent(self, draw: Random) -> None:
        job = self.any_job(draw, JobStatus.RUNNING)
        if job is not None:
            making.expire(self.database, job.id)

    # What workers do, also those that have lost their job without knowing it.

    def claim(self, draw: Random) -> None:
        job = making.claim(self.database, worker=draw.choice(["worker-1", "worker-2"]))
        if job is not None:
            assert self.seen[job.id].status is JobStatus.QUEUED
            self.leases.append(job)

    def renew(self, draw: Random) -> None:
        step = draw.randrange(20)
        self.write(draw, lambda tx, job: jobs.renew(tx, job.id, job.fence, lease_seconds=30, step=step))

    def checkpoint(self, draw: Random) -> None:
        step = draw.randrange(1, 9)
        self.write(draw, lambda tx, job: making.checkpoint(tx, job, step))

    def finalize(self, draw: Random) -> None:
        self.write(draw, lambda tx, job: making.finalize(tx, job, step=8))

    def fail(self, draw: Random) -> None:
        self.write(draw, lambda tx, job: jobs.fail(tx, job.id, job.fence, BROKE))

    def hand_back(self, draw: Random) -> None:  # at a pause, or because the worker must leave
        self.write(draw, lambda tx, job: interruptions.hand_back(tx, job.id, job.fence))

    def write(self, draw: Random, act: Callable[[Tx, JobRecord], Any]) -> None:
        """Exactly the owner's writes happen; anybody else's change nothing at all."""
        held = [lease for lease in self.leases if self.owns(lease)]
        robbed = [lease for lease in self.leases if lease not in held and lease.id in {now.id for now in held}]
        among = draw.choice([held, held, held, robbed, self.leases])
        if not among:
            return
        lease = draw.choice(among)
        owns = self.owns(lease)
        before = None if owns else self.everything()
        try:
            with self.database.transaction() as tx:
                act(tx, lease)
        except LeaseLost:
            assert not owns
            assert self.everything() == before
        else:
            assert owns

    def owns(self, lease: JobRecord) -> bool:
        now = self.seen[lease.id]
        return now.status is JobStatus.RUNNING and now.fence == lease.fence

    def look(self, query: str) -> list[Any]:
        return self.observer.execute(query).fetchall()

    def everything(self) -> list[Any]:
        return [self.look(f"SELECT * FROM {table}") for table in tables.metadata.tables]

    # What always holds.

    @invariant()
    def rules_hold(self) -> None:
        type(self).steps += 1
        rows = [Seen(*row) for row in self.look(f"SELECT {', '.join(Seen._fields)} FROM jobs")]
        now = {row.id: row._replace(status=JobStatus(row.status)) for row in rows}
        models = self.look("SELECT id, job_id, adapter_id FROM models WHERE state = 'ready'")
        attempts = self.look("SELECT job_id, fence, ended_at FROM job_attempts")
        kept = self.look("SELECT job_id, model_name FROM job_checkpoints")
        assert now.keys() >= self.seen.keys()
        for job_id, job in now.items():
            self.check_move(self.seen.get(job_id), job)
            succeeded = job.status is JobStatus.SUCCEEDED
            assert succeeded == (job.fine_tuned_model is not None)
            finals = [(name, adapter) for name, of, adapter in models if of == job_id and ":ckpt-step-" not in name]
            assert finals == ([(job.fine_tuned_model, job.adapter_id)] if succeeded else [])
            names = {name for of, name in kept if of == job_id}
            assert len(names) <= 3
            if job.status is not JobStatus.FINALIZING:
                assert names <= {name for name, *_ in models}
            fences = [fence for of, fence, _ in attempts if of == job_id]
            assert len(fences) == len(set(fences))
            working = [fence for of, fence, ended in attempts if of == job_id and ended is None]
            assert working == ([job.fence] if job.status is JobStatus.RUNNING else [])
            assert job.attempts <= MAX_ATTEMPTS
            if job.status is not JobStatus.RUNNING:
                assert job.want == ("cancel" if job.status is JobStatus.CANCELLED else "run")
        self.seen = now

    def check_move(self, old: Seen | None, new: Seen) -> None:
        if old is None:
            assert new.status is JobStatus.VALIDATING_FILES
            return
        assert new.fence >= old.fence
        if new.status is JobStatus.PAUSED and old.status is JobStatus.RUNNING:
            assert old.want == "pause"
        if old.status is JobStatus.RUNNING and new.status is JobStatus.QUEUED:
            assert old.want != "pause"
        if old.status.terminal:
            assert new == old
        if new.status is not old.status:
            assert (str(old.status), str(new.status)) in ALLOWED
            self.reached.add((str(old.status), str(new.status)))
        if new.status is JobStatus.RUNNING and old.status is not JobStatus.RUNNING:
            assert new.fence > old.fence


def test_the_rules_hold_whatever_happens_in_whatever_order(database: Database) -> None:
    class LivesHere(Lives):
        steps = 0
        reached: ClassVar[set[tuple[str, str]]] = set()

    LivesHere.database = database
    LivesHere.observer = sqlite3.connect(database.url.database or "")
    run_state_machine_as_test(
        LivesHere,
        settings=settings(
            max_examples=10, stateful_step_count=200, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    LivesHere.observer.close()
    assert LivesHere.steps >= 2000
    # Lives that never get anywhere would prove nothing.
    assert {
        ("running", "queued"),
        ("running", "paused"),
        ("paused", "queued"),
        ("running", "finalizing"),
        ("finalizing", "succeeded"),
    } <= LivesHere.reached
