"""What the sweep repairs and removes of evals: lost workers and bells, and what deleted runs leave."""

import logging

from rootstock.bell import BATCHES, Bell
from rootstock.db import Database
from rootstock.evals import definitions, items, runs
from rootstock.evals.records import RunRecord
from rootstock.storage import Store

log = logging.getLogger(__name__)

RING_AGAIN_SECONDS = 20.0
"""A waiting run whose bell is older than this was not heard."""

COPY_GRACE_SECONDS = 600.0
"""A run's own object outlives its end by this much: a worker that was told late may still be writing it."""

ROW_GRACE_SECONDS = 86400.0
"""A deleted row stays this long, emptied, so that a client which deletes what it lists can go on listing."""

ROWS = 100
MAX_ROUNDS = 100
"""Times `ROWS` rows that one pass removes."""


class EvalSweep:
    """The rules of evals. Each may run again, and in several processes at once, without harm."""

    def __init__(self, database: Database, store: Store, bell: Bell, max_attempts: int) -> None:
        self._db = database
        self._store = store
        self._bell = bell
        self._max_attempts = max_attempts

    def requeue(self) -> int:
        """Give runs of silent workers to others."""
        with self._db.read() as tx:
            silent = runs.expired_leases(tx)
        count = 0
        for run in silent:
            with self._db.transaction() as tx:
                moved = runs.requeue(tx, run, self._max_attempts)
            if moved is not None:
                log.warning("worker %s lost %s, which is %s now", run.lease_owner, run.id, moved.status)
                count += 1
        return count

    def ring_all(self) -> int:
        """Ring for runs that nobody seems to have heard of."""
        with self._db.read() as tx:
            unheard = runs.unrung(tx, RING_AGAIN_SECONDS)
        for count, run in enumerate(unheard):
            if not self.ring(run):
                return count
        return len(unheard)

    def ring(self, run: RunRecord) -> bool:
        """Wake a batch worker, which does runs too; false when Redis is away."""
        if not self._bell.ring(BATCHES, run.id, run.rings + 1):
            return False
        with self._db.transaction() as tx:
            runs.held.mark_rung(tx, run.id)
        return True

    def purge(self) -> int:
        """Remove the objects of runs that ended, and the rows of what was deleted; how many."""
        with self._db.read() as tx:
            ended = runs.with_copies(tx, ROWS, grace_seconds=COPY_GRACE_SECONDS)
        for run in ended:
            self._store.delete_prefix(runs.folder(run.id))
            with self._db.transaction() as tx:
                runs.mark_copy_gone(tx, run.id)
        removed = len(ended)
        for _ in range(MAX_ROUNDS):
            with self._db.transaction() as tx:
                last = items.purge(tx, ROWS)
            removed += last
            if last < ROWS:
                break
        with self._db.transaction() as tx:
            removed += runs.purge(tx, ROWS, grace_seconds=ROW_GRACE_SECONDS)
            removed += definitions.purge(tx, ROWS, grace_seconds=ROW_GRACE_SECONDS)
        return removed
