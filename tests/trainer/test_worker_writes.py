"""What a worker writes while the database or the store is away, and the lease that it writes under."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rootstock import adapters, interruptions, jobs, publish
from rootstock.db import Database, Tx
from rootstock.errors import JobFailure, LeaseLost, StoreError, Unavailable
from rootstock.records import JobStatus
from tests.trainer.harness import Deployment
from tests.waiting import eventually
from trainer.base import Base
from trainer.loop import Progress
from trainer.worker.job import run_job
from trainer.worker.lease import Lease


def broken_commit(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """Make the first call of `publish.<function>` commit, and its answer get lost on the way."""
    real, lost = getattr(publish, function), [True]

    def commit_and_break(tx: Tx, *args: Any, **kwargs: Any) -> Any:
        if not lost:
            return real(tx, *args, **kwargs)
        lost.clear()
        tx.rollback()
        with deployment.db.transaction() as other:
            real(other, *args, **kwargs)
        raise Unavailable("the connection broke")

    monkeypatch.setattr(publish, function, commit_and_break)


@pytest.mark.parametrize("function", ["checkpoint", "finalize"])
def test_a_connection_that_breaks_at_the_commit_loses_nothing(
    deployment: Deployment, base: Base, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    job = deployment.queue()
    broken_commit(deployment, monkeypatch, function)
    run_job(deployment.place(base), deployment.claim())
    assert deployment.job(job.id).status is JobStatus.FINALIZING
    with deployment.db.read() as tx:
        recorded = jobs.list_checkpoints(tx, deployment.project, job.id).data
    assert [c.step_number for c in recorded] == [6, 3]
    for checkpoint in recorded:
        adapters.read_manifest(deployment.store, checkpoint.adapter_id)


class FlakyStore:
    """A store that is away for the first calls of one method."""

    def __init__(self, store: Any, method: str, times: int) -> None:
        self._store = store
        self._method = method
        self.left = times

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name != self._method:
            return real

        def flaky(*args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                raise StoreError("The object store is away.")
            return real(*args, **kwargs)

        return flaky


@pytest.mark.parametrize("method", ["get", "put", "put_file", "put_bytes", "list"])
def test_a_store_that_is_away_for_a_while_costs_only_time(deployment: Deployment, base: Base, method: str) -> None:
    job = deployment.queue()
    store = FlakyStore(deployment.store, method, times=2)
    run_job(dataclasses.replace(deployment.place(base), store=store), deployment.claim())  # type: ignore[arg-type]
    assert store.left == 0
    assert deployment.job(job.id).status is JobStatus.FINALIZING


class FlakyDatabase(Database):
    """A database that can be taken away."""

    away = False

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        if self.away:
            raise Unavailable("away")
        with super().transaction() as tx:
            yield tx


@pytest.fixture
def flaky(deployment: Deployment) -> Iterator[FlakyDatabase]:
    database = FlakyDatabase(deployment.settings.effective_database_url)
    yield database
    database.close()


def note(step: int) -> Progress:
    return Progress(step, 9, {"step": step, "total_steps": 9, "train_loss": 0.5}, tokens=1, seconds=0.1)


def test_steps_noted_while_the_database_is_away_are_all_written_later(
    deployment: Deployment, flaky: FlakyDatabase
) -> None:
    job = deployment.queue()
    with Lease(flaky, deployment.claim(), lease_seconds=30, heartbeat_seconds=0.05) as lease:
        flaky.away = True
        for step in (1, 2, 3):
            lease.note(note(step), time.time())
        assert not lease.lost
        flaky.away = False
        eventually(lambda: deployment.steps(job.id) == [1, 2, 3])
        assert not lease.lost


def test_a_database_that_stays_away_for_a_lease_loses_the_job(deployment: Deployment, flaky: FlakyDatabase) -> None:
    deployment.queue()
    with Lease(flaky, deployment.claim(), lease_seconds=0.5, heartbeat_seconds=0.1) as lease:
        flaky.away = True
        eventually(lambda: lease.lost)
        with pytest.raises(LeaseLost):
            lease.persist(lambda: None)


def test_a_lease_is_renewed_without_any_step(deployment: Deployment) -> None:
    deployment.queue()
    claimed = deployment.claim()
    before = claimed.lease_expires_at
    assert before is not None
    with Lease(deployment.db, claimed, lease_seconds=10, heartbeat_seconds=0.05):
        eventually(lambda: (deployment.job(claimed.id).lease_expires_at or 0) > before + 0.2)


def test_a_process_that_hangs_lets_its_lease_run_out(deployment: Deployment) -> None:
    deployment.queue()
    claimed = deployment.claim()
    with Lease(deployment.db, claimed, lease_seconds=0.3, heartbeat_seconds=0.05, watchdog_seconds=0.1) as lease:
        eventually(lambda: lease.lost)

    def expired() -> bool:  # on the database's clock, which need not agree with ours to the millisecond
        with deployment.db.read() as tx:
            return [job.id for job in interruptions.expired_leases(tx)] == [claimed.id]

    eventually(expired)


def test_a_write_that_fails_is_not_repeated_for_the_customer_s_own_faults(deployment: Deployment) -> None:
    deployment.queue()
    with Lease(deployment.db, deployment.claim(), lease_seconds=5, heartbeat_seconds=1) as lease:
        tries: list[int] = []

        def refused() -> None:
            tries.append(1)
            raise JobFailure("x", "y")

        with pytest.raises(JobFailure):
            lease.persist(refused)
        assert tries == [1]
