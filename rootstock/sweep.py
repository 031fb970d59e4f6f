"""The rules that repair: whatever a dead process, a lost message or a full disk left half done, a later pass finishes.

Every rule may run again and in several processes at once without harm. Knows nothing about HTTP or training.
"""

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import sqlalchemy as sa

from rootstock import (
    batches,
    checkpoints,
    completions,
    datasets,
    db,
    deliveries,
    distillations,
    files,
    idempotency,
    interruptions,
    jobs,
    models,
    publish,
    releases,
    tables,
    telemetry,
    uploads,
    watches,
)
from rootstock.bell import BATCHES, Bell, queue_name
from rootstock.db import Database, Tx
from rootstock.errors import JobFailure, RootstockError
from rootstock.evals.repairing import EvalSweep
from rootstock.records import BatchRecord, DataCheck, FileRecord, JobRecord, JobStatus, ModelRecord, UploadRecord
from rootstock.settings import Settings
from rootstock.storage import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

RING_AGAIN_SECONDS = 20.0
"""A queued job whose bell is older than this was not heard."""

GRACE_SECONDS = 600.0
"""Adapters and states outlive their rows by this much, for requests and uploads that are under way."""

BATCH = 100
MAX_ROUNDS = 100
"""Times `BATCH` rows that a rule forgets in one pass."""

MAX_FAILURES = 3
"""Rows that may fail in one pass of a rule: by then it is not the row, and other rules are waiting."""


class Sweep:
    """The rules, with what they work on. `run_once` is a pass over all of them."""

    def __init__(self, database: Database, store: Store, bell: Bell, settings: Settings) -> None:
        self._db = database
        self._store = store
        self._bell = bell
        self._max_attempts = settings.max_attempts
        self._list_states_at = float("-inf")
        self._list_results_at = float("-inf")
        self.evals = EvalSweep(database, store, bell, settings.max_attempts)

    def run_once(self) -> dict[str, int]:
        """Apply every rule; returns how many rows each one put right. A rule that fails does not stop the others."""
        rules: dict[str, Callable[[], int]] = {
            "judge": self._judge_all,
            "lost_worker": self._requeue_all,
            "lost_bell": self._ring_all,
            "lost_batch_worker": self._requeue_batches,
            "lost_batch_bell": self._ring_batches,
            "forget_results": self._forget_results,
            "lost_eval_worker": self.evals.requeue,
            "lost_eval_bell": self.evals.ring_all,
            "purge_eval": self.evals.purge,
            "withdraw": self._withdraw,
            "expire_upload": self._expire_uploads,
            "purge_upload": self._purge_uploads,
            "purge_file": self._purge_files,
            "purge_model": self._purge_models,
            "purge_state": self._purge_states,
            "forget_key": self._forget_keys,
            "purge_delivery": self._purge_deliveries,
            "purge_completion": self._purge_completions,
            "forget_teacher_key": self._forget_teacher_keys,
            "end_watch": self._end_watches,
        }
        counts = {}
        for rule, repair in rules.items():
            try:
                counts[rule] = repair()
            except Exception as error:
                counts[rule] = 0
                _log_failure(rule, error)
            telemetry.SWEEP_REPAIRS.labels(rule=rule).inc(counts[rule])
        return counts

    def ring(self, job_id: str) -> None:
        """Wake a trainer for a job that was queued just now. Nothing is lost when that fails: a later pass rings."""
        with self._db.read() as tx:
            job = jobs.find(tx, job_id)
        if job is not None and job.status is JobStatus.QUEUED:
            self._ring(job)

    def judge(self, job_id: str) -> bool:
        """Queue (and ring for) a job whose files are good, fail it when they are not; by the recorded checks alone.

        False when the job is not waiting for that, or a file of its is still to be inspected.
        """
        with self._db.transaction() as tx:
            job = jobs.find(tx, job_id)
            if job is None or job.status is not JobStatus.VALIDATING_FILES or _uninspected(tx, job):
                return False
            failure = _verdict(tx, job)
            if failure is not None:
                return jobs.fail_unclaimed(tx, job_id, failure, from_status=JobStatus.VALIDATING_FILES)
            queued = jobs.to_queued(tx, job_id)
        if queued:
            self._ring(job)
        return queued

    def _judge_all(self) -> int:
        with self._db.read() as tx:
            waiting = jobs.validating(tx)
        return _each("judge", waiting, lambda job: self.judge(job.id))

    def _requeue_all(self) -> int:
        with self._db.read() as tx:
            silent = interruptions.expired_leases(tx)
        return _each("lost_worker", silent, self._requeue)

    def _requeue(self, job: JobRecord) -> bool:
        with self._db.transaction() as tx:
            moved = interruptions.requeue(tx, job, self._max_attempts)
        if moved is not None:
            log.warning("worker %s lost %s, which is %s now", job.lease_owner, job.id, moved.status)
        return moved is not None

    def _ring_all(self) -> int:
        with self._db.read() as tx:
            unheard = jobs.unrung(tx, RING_AGAIN_SECONDS)
        for count, job in enumerate(unheard):
            if not self._ring(job):
                return count
        return len(unheard)

    def _ring(self, job: JobRecord) -> bool:
        if not self._bell.ring(queue_name(job.base), job.id, job.rings + 1):
            return False
        with self._db.transaction() as tx:
            jobs.mark_rung(tx, job.id)
        return True

    def _requeue_batches(self) -> int:
        with self._db.read() as tx:
            silent = batches.expired_leases(tx)
        return _each("lost_batch_worker", silent, self._requeue_batch)

    def _requeue_batch(self, batch: BatchRecord) -> bool:
        with self._db.transaction() as tx:
            moved = batches.requeue(tx, batch, self._max_attempts)
        if moved is not None:
            log.warning("worker %s lost %s, which is %s now", batch.lease_owner, batch.id, moved.status)
        return moved is not None

    def _ring_batches(self) -> int:
        with self._db.read() as tx:
            unheard = batches.unrung(tx, RING_AGAIN_SECONDS)
        for count, batch in enumerate(unheard):
            if not self.ring_batch(batch):
                return count
        return len(unheard)

    def ring_batch(self, batch: BatchRecord) -> bool:
        """Wake a batch worker; false when Redis is away. One bell is enough: who hears it looks at all that waits."""
        if not self._bell.ring(BATCHES, batch.id, batch.rings + 1):
            return False
        with self._db.transaction() as tx:
            batches.mark_rung(tx, batch.id)
        return True

    def ring_measuring(self, job_id: str, rings: int) -> None:
        """Wake a batch worker to measure a job's tune; idle ones look by themselves, too."""
        self._bell.ring(BATCHES, job_id, rings)

    def _forget_results(self) -> int:
        # Batch workers do it themselves; this is for those that died between the two.
        if time.monotonic() < self._list_results_at:
            return 0
        with self._db.read() as tx:
            ended = batches.ended_with_results(tx)
        self._list_results_at = time.monotonic() + GRACE_SECONDS
        return _each("forget_results", ended, self._forget)

    def _forget(self, batch_id: str) -> bool:
        gone = 1
        while gone:
            with self._db.transaction() as tx:
                gone = batches.forget_results(tx, batch_id)
        return True

    def _withdraw(self) -> int:
        with self._db.transaction() as tx:
            return publish.withdraw_unpublished(tx)

    def _expire_uploads(self) -> int:
        with self._db.transaction() as tx:
            return uploads.expire(tx, BATCH)

    def _purge_uploads(self) -> int:
        with self._db.read() as tx:
            ended = uploads.purgeable(tx, BATCH)
        return _each("purge_upload", ended, self._purge_upload)

    def _purge_upload(self, upload: UploadRecord) -> bool:
        with self._db.read() as tx:
            kept = uploads.kept_objects(tx, upload)
        for key in self._store.list(uploads.folder(upload.id)):
            if key not in kept:
                # Alone: a list that no row names may share its parts with the file.
                self._store.delete_alone(key)
        with self._db.transaction() as tx:
            uploads.mark_purged(tx, upload.id)
        return True

    def _purge_files(self) -> int:
        with self._db.read() as tx:
            gone = files.purgeable(tx, BATCH)
        return _each("purge_file", gone, self._purge_file)

    def _purge_file(self, file: FileRecord) -> bool:
        self._store.delete(file.object_key)
        with self._db.transaction() as tx:
            files.mark_purged(tx, file.id)
            releases.forget_answers(tx, file.object_key)
        return True

    def _purge_models(self) -> int:
        with self._db.read() as tx:
            before = _grace_ends(tx)
            gone = [model for model in models.purgeable(tx, BATCH) if (model.deleted_at or 0.0) < before]
        return _each("purge_model", gone, self._purge_model)

    def _purge_model(self, model: ModelRecord) -> bool:
        self._store.delete_prefix(f"adapters/{model.adapter_id}/")
        with self._db.read() as tx:
            resumes = checkpoints.of_adapter(tx, model.job_id, model.adapter_id) is not None
        if not resumes:  # a checkpoint that gave way to newer ones; its job may still be running
            self._store.delete_prefix(f"states/{model.job_id}/{model.adapter_id}/")
        with self._db.transaction() as tx:
            models.mark_purged(tx, model.id)
        return True

    def _purge_completions(self) -> int:
        return self._drain(completions.purge)

    def _end_watches(self) -> int:
        return self._drain(watches.end)

    def _purge_deliveries(self) -> int:
        return self._drain(deliveries.purge)

    def _drain(self, purge: Callable[[Tx, int], int]) -> int:
        # Many short transactions: rows come in faster than one for each pass could remove them.
        removed = 0
        for _ in range(MAX_ROUNDS):
            with self._db.transaction() as tx:
                last = purge(tx, BATCH)
            removed += last
            if last < BATCH:
                break
        return removed

    def _purge_states(self) -> int:
        # By what lies in the store, because a worker may have left a state that no row names. Seldom, because that
        # costs a listing.
        if time.monotonic() < self._list_states_at:
            return 0
        stored = {key.split("/")[1] for key in self._store.list("states/")}
        with self._db.read() as tx:
            ended = jobs.ended_before(tx, stored, _grace_ends(tx))
        self._list_states_at = time.monotonic() + GRACE_SECONDS
        return _each("purge_state", ended, self._purge_state)

    def _purge_state(self, job_id: str) -> bool:
        self._store.delete_prefix(f"states/{job_id}/")
        with self._db.transaction() as tx:
            checkpoints.forget_states(tx, job_id)
        return True

    def _forget_teacher_keys(self) -> int:
        with self._db.transaction() as tx:
            return distillations.forget_keys(tx)

    def _forget_keys(self) -> int:
        with self._db.transaction() as tx:
            return idempotency.forget_old(tx)


def _uninspected(tx: Tx, job: JobRecord) -> bool:
    named = tables.files.c.id.in_(job.files.values())
    waiting = sa.select(tables.files.c.id).where(named, tables.files.c.status == "uploaded").limit(1)
    return tx.scalar(waiting) is not None


def _verdict(tx: Tx, job: JobRecord) -> JobFailure | None:
    try:
        for role, file_id in job.files.items():
            # The row also when the file was deleted meanwhile: the job has its snapshot.
            found = tables.files.c
            query = sa.select(found.check, found.status, found.status_details).where(found.id == file_id)
            stored, status, details = tx.execute(query).one_or_none() or (None, "", None)
            if status == "error":
                return JobFailure(f"invalid_{role}_file", str(details), datasets.PARAMS[role])
            check = datasets.check_from_json(stored) if stored else DataCheck(format=None, examples=0)
            failure = datasets.judge(check, role=role, file_id=file_id, method=job.method["type"])
            if failure is not None:
                return failure
    except RootstockError:
        raise
    except (LookupError, TypeError, ValueError):
        # Ours to repair, but the owner polls until the job ends, so it must end.
        log.exception("could not judge the files of %s", job.id)
        return JobFailure("server_error", "The job failed due to an internal error while validating its files.")
    return None


def _grace_ends(tx: Tx) -> float:
    return db.clock(tx) - GRACE_SECONDS


def _each(rule: str, rows: Sequence[T], repair: Callable[[T], bool]) -> int:
    done = failures = 0
    # In any order, so that rows which always fail cannot keep the same others waiting for ever.
    for row in random.sample(rows, len(rows)):
        try:
            done += repair(row)
        except Exception as error:
            _log_failure(rule, error)
            failures += 1
            if failures == MAX_FAILURES:
                break
    return done


def _log_failure(rule: str, error: Exception) -> None:
    # What we raise on purpose (a store or database that is away) needs no traceback every few seconds.
    log.warning("sweep: %s: %s", rule, error, exc_info=None if isinstance(error, RootstockError) else error)
