"""What the sweep does for batches: rings, takes them from dead workers, forgets their rows."""

from rootstock import batches, db, tables
from rootstock.db import Database
from rootstock.sweep import Sweep
from tests.rootstock import test_batches
from tests.rootstock.test_sweep import NOTHING, Bell, bell, store, sweep

__all__ = ["bell", "store", "sweep"]  # fixtures


def test_a_batch_is_rung_for_until_somebody_claims_it(sweep: Sweep, bell: Bell, database: Database) -> None:
    with database.transaction() as tx:
        batch = test_batches.submit(tx)
    bell.away = True
    assert sweep.run_once() == NOTHING
    bell.away = False
    assert sweep.run_once() == NOTHING | {"lost_batch_bell": 1}
    assert sweep.run_once() == NOTHING
    with database.transaction() as tx:
        tx.execute(tables.batches.update().values(rung_at=db.now() - 60))
    assert sweep.run_once() == NOTHING | {"lost_batch_bell": 1}
    assert bell.rung == [("rootstock-batches", batch.id, 1), ("rootstock-batches", batch.id, 2)]
    assert test_batches.claim(database) is not None
    assert sweep.run_once() == NOTHING


def test_a_batch_of_a_dead_worker_goes_to_another_one(sweep: Sweep, database: Database) -> None:
    batch = test_batches.running(database)
    assert sweep.run_once() == NOTHING
    test_batches.change(database, batch, lease_expires_at=db.now() - 1)
    assert sweep.run_once() == NOTHING | {"lost_batch_worker": 1}
    test_batches.change(database, batch, not_before=0.0)
    again = test_batches.claim(database)
    assert again is not None and again.fence == batch.fence + 1


def test_results_that_nobody_needs_are_removed(sweep: Sweep, database: Database) -> None:
    batch = test_batches.running(database)
    test_batches.write(database, batch, test_batches.result(1))
    with database.transaction() as tx:
        assert batches.refuse(tx, batch, []) is not None
    assert sweep.run_once() == NOTHING | {"forget_results": 1}
    with database.read() as tx:
        assert batches.done(tx, batch.id) == set()
