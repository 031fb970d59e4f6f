"""Batches' rows: the table of moves, leases and fences, results that are stored once; on both databases."""

import dataclasses
import itertools
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import batches, db, files, ids, tables, usage
from rootstock.db import Database, Tx
from rootstock.errors import BatchNotFound, InvalidRequest, LeaseLost
from rootstock.records import BatchRecord, BatchResult, BatchStatus, FileRecord
from rootstock.usage import Amounts
from tests.rootstock import making

# Written out here, not taken from `batches.MOVES`: a change of the table must be a change of two places.
ALLOWED = {
    ("validating", "in_progress"),
    ("validating", "failed"),
    ("validating", "cancelling"),
    ("in_progress", "finalizing"),
    ("in_progress", "failed"),
    ("in_progress", "cancelling"),
    ("finalizing", "completed"),
    ("finalizing", "expired"),
    ("finalizing", "failed"),
    ("finalizing", "cancelling"),
    ("cancelling", "cancelled"),
}
LEASE = 30.0
MAX_ATTEMPTS = 3


def source(tx: Tx, project_id: str = "proj_a") -> FileRecord:
    file_id = ids.new("file-")
    return files.create(
        tx,
        file_id=file_id,
        project_id=making.project(tx, project_id),
        filename="x",
        purpose="batch",
        size=1,
        sha256="0" * 64,
        object_key=f"files/{file_id}",
        check=None,
    )


def submit(tx: Tx, project_id: str = "proj_a") -> BatchRecord:
    return batches.create(
        tx,
        project_id=project_id,
        endpoint="/v1/chat/completions",
        source=source(tx, project_id),
        completion_window="24h",
        output_expires_after=None,
        metadata=None,
    )


def claim(database: Database) -> BatchRecord | None:
    with database.transaction() as tx:
        return batches.claim(tx, worker="w", lease_seconds=LEASE)


def claimed(database: Database) -> BatchRecord:
    with database.transaction() as tx:
        submit(tx)
    batch = claim(database)
    assert batch is not None
    return batch


def running(database: Database, total: int = 3) -> BatchRecord:
    batch = claimed(database)
    with database.transaction() as tx:
        begun = batches.begin(tx, batch, model="m", total=total)
    assert begun is not None
    return begun


def result(line: int, ok: bool = True, tokens: int = 2) -> BatchResult:
    usage = {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1, "cached_tokens": 0}
    return BatchResult(line, ok, f'{{"line":{line}}}', usage if ok else {})


def write(database: Database, batch: BatchRecord, *results: BatchResult) -> BatchRecord:
    with database.transaction() as tx:
        return batches.write(tx, batch, results, lease_seconds=LEASE)


def change(database: Database, batch: BatchRecord, **values: Any) -> None:
    with database.transaction() as tx:
        tx.execute(tables.batches.update().where(tables.batches.c.id == batch.id).values(**values))


def look(database: Database, batch: BatchRecord) -> BatchRecord:
    with database.read() as tx:
        found = batches.find(tx, batch.id)
    assert found is not None
    return found


def test_the_table_of_moves_is_the_contract() -> None:
    assert {(str(old), str(new)) for old, targets in batches.MOVES.items() for new in targets} == ALLOWED
    assert set(batches.MOVES) == set(BatchStatus)
    assert {status for status, targets in batches.MOVES.items() if not targets} == {
        status for status in BatchStatus if status.terminal
    }


def test_a_claim_is_one_workers_alone(any_database: Database) -> None:
    batch = claimed(any_database)
    assert (batch.status, batch.fence, batch.attempts) == (BatchStatus.VALIDATING, 1, 1)
    assert claim(any_database) is None


def test_results_are_stored_once_and_counted_once(any_database: Database) -> None:
    batch = running(any_database)
    write(any_database, batch, result(1), result(2, ok=False))
    now = write(any_database, batch, result(2), result(3, tokens=5))
    assert (now.completed, now.failed, now.attempts) == (2, 1, 0)
    assert now.usage == {"input_tokens": 7, "cached_tokens": 0, "output_tokens": 2, "total_tokens": 9}
    with any_database.read() as tx:
        assert batches.done(tx, batch.id) == {1, 2, 3}
        assert [one.line for one in batches.results(tx, batch.id, ok=True, after=0)] == [1, 3]
        assert [one.line for one in batches.results(tx, batch.id, ok=True, after=1)] == [3]
        assert [one.body for one in batches.results(tx, batch.id, ok=False, after=0)] == ['{"line":2}']


def test_a_stale_worker_writes_nothing(any_database: Database) -> None:
    old = running(any_database)
    change(any_database, old, lease_expires_at=db.now() - 1)
    with any_database.transaction() as tx:
        (silent,) = batches.expired_leases(tx)
        assert batches.requeue(tx, silent, MAX_ATTEMPTS) is not None
    change(any_database, old, not_before=0.0)
    new = claim(any_database)
    assert new is not None and new.fence == old.fence + 1
    stale: list[Any] = [
        lambda tx: batches.write(tx, old, [result(1)], lease_seconds=LEASE),
        lambda tx: batches.finalize(tx, old),
        lambda tx: batches.refuse(tx, old, []),
        lambda tx: batches.end(tx, old, output_file=None, error_file=None),
        lambda tx: batches.hand_back(tx, old),
    ]
    for act in stale:
        with pytest.raises(LeaseLost), any_database.transaction() as tx:
            act(tx)
    with any_database.read() as tx:
        assert batches.done(tx, old.id) == set()
    assert look(any_database, old).status is BatchStatus.IN_PROGRESS


def test_a_worker_that_dies_again_and_again_without_a_result_fails_the_batch(any_database: Database) -> None:
    batch = running(any_database)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert batch.attempts == attempt
        change(any_database, batch, lease_expires_at=db.now() - 1)
        with any_database.transaction() as tx:
            moved = batches.requeue(tx, batch, MAX_ATTEMPTS)
        assert moved is not None
        if moved.status is BatchStatus.FAILED:
            break
        assert claim(any_database) is None, "it is given some time"
        change(any_database, batch, not_before=0.0)
        again = claim(any_database)
        assert again is not None
        batch = again
    assert moved.attempts == MAX_ATTEMPTS and moved.lease_owner is None
    assert moved.errors is not None and moved.errors[0]["code"] == "server_error"


def test_progress_forgives_earlier_deaths(any_database: Database) -> None:
    batch = running(any_database)
    change(any_database, batch, attempts=MAX_ATTEMPTS)
    batch = write(any_database, batch, result(1))
    change(any_database, batch, lease_expires_at=db.now() - 1)
    with any_database.transaction() as tx:
        moved = batches.requeue(tx, batch, MAX_ATTEMPTS)
    assert moved is not None and moved.status is BatchStatus.IN_PROGRESS


def test_a_worker_that_was_heard_in_the_meantime_keeps_its_batch(any_database: Database) -> None:
    batch = running(any_database)
    with any_database.transaction() as tx:
        assert batches.requeue(tx, batch, MAX_ATTEMPTS) is None
    assert write(any_database, batch).lease_owner == "w"


def test_when_the_window_is_over_the_next_write_says_so(any_database: Database) -> None:
    batch = running(any_database)
    change(any_database, batch, expires_at=db.now() - 1)
    now = write(any_database, batch, result(1))
    assert now.status is BatchStatus.FINALIZING and now.completed == 1
    with any_database.transaction() as tx:
        ended = batches.end(tx, now, output_file="file-1", error_file=None)
    assert ended is not None and ended.status is BatchStatus.EXPIRED
    assert ended.expired_at is not None and ended.lease_owner is None and ended.completed_at is None


def test_cancelling_wins_over_files_that_were_written_for_another_end(any_database: Database) -> None:
    batch = running(any_database, total=1)
    write(any_database, batch, result(1))
    with any_database.transaction() as tx:
        finalizing = batches.finalize(tx, batch)
    assert finalizing is not None
    with any_database.transaction() as tx:
        assert batches.cancel(tx, "proj_a", batch.id).status is BatchStatus.CANCELLING
    with any_database.transaction() as tx:
        assert batches.end(tx, finalizing, output_file="file-1", error_file=None) is None
    now = write(any_database, batch)
    assert now.status is BatchStatus.CANCELLING
    with any_database.transaction() as tx:
        ended = batches.end(tx, now, output_file="file-1", error_file=None)
    assert ended is not None and (ended.status, ended.output_file) == (BatchStatus.CANCELLED, "file-1")


def test_another_projects_batch_is_not_found(any_database: Database) -> None:
    batch = running(any_database)
    with any_database.transaction() as tx:
        making.project(tx, "proj_b")
        for act in (batches.get, batches.cancel):
            with pytest.raises(BatchNotFound):
                act(tx, "proj_b", batch.id)


def test_whoever_waits_longest_is_next_and_bells_are_rung_for_it(any_database: Database) -> None:
    with any_database.transaction() as tx:
        first, second = submit(tx), submit(tx)
        tx.execute(tables.batches.update().where(tables.batches.c.id == second.id).values(not_before=1.0))
        assert {batch.id for batch in batches.unrung(tx, 20)} == {first.id, second.id}
        batches.mark_rung(tx, first.id)
        assert [batch.id for batch in batches.unrung(tx, 20)] == [second.id]
    batch = claim(any_database)
    assert batch is not None and batch.id == second.id
    with any_database.transaction() as tx:
        assert batches.another_waits(tx)
        batches.hand_back(tx, batch)
    again = claim(any_database)
    assert again is not None and again.id == first.id


def test_results_of_what_has_ended_are_forgotten(any_database: Database) -> None:
    batch = running(any_database)
    write(any_database, batch, result(1))
    with any_database.transaction() as tx:
        assert batches.ended_with_results(tx) == []
        assert batches.refuse(tx, batch, []) is not None
        assert batches.ended_with_results(tx) == [batch.id]
        assert [batches.forget_results(tx, batch.id) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("seed", range(8))
def test_random_lives_keep_to_the_table_and_reach_an_end(database: Database, seed: int) -> None:
    """Two workers of which either may be stale, an impatient owner, a clock that jumps, a sweep."""
    draw = Random(seed)
    with database.transaction() as tx:
        batch = submit(tx)
    leases: list[BatchRecord] = []
    seen = [BatchStatus.VALIDATING]

    def act(tx: Tx) -> None:
        now = batches.find(tx, batch.id)
        assert now is not None
        action = draw.choice(["claim", "claim", "work", "work", "work", "work", "die", "late", "cancel", "hand_back"])
        if action == "claim":
            tx.execute(tables.batches.update().values(not_before=0.0))
            if got := batches.claim(tx, worker="w", lease_seconds=LEASE):
                leases.append(got)
        elif action == "late" and draw.random() < 0.2:
            tx.execute(tables.batches.update().values(expires_at=0.0))
        elif action == "cancel" and draw.random() < 0.1:
            if now.status.terminal:
                with pytest.raises(InvalidRequest):
                    batches.cancel(tx, "proj_a", batch.id)
            else:
                assert batches.cancel(tx, "proj_a", batch.id).status is BatchStatus.CANCELLING
        elif action == "die":
            tx.execute(tables.batches.update().values(lease_expires_at=db.now() - 1))
            for silent in batches.expired_leases(tx):
                batches.requeue(tx, silent, MAX_ATTEMPTS)
        elif leases and action in ("work", "hand_back"):
            mine = draw.choice(leases)
            owned = mine.fence == now.fence and now.lease_owner is not None
            try:
                batches.hand_back(tx, mine) if action == "hand_back" else work(tx, mine, now)
            except LeaseLost:
                assert not owned
            else:
                assert owned

    def work(tx: Tx, mine: BatchRecord, now: BatchRecord) -> None:
        if now.status is BatchStatus.VALIDATING:
            if draw.random() < 0.1:
                batches.refuse(tx, mine, [{"code": "empty_file", "message": "", "param": None, "line": None}])
            else:
                batches.begin(tx, mine, model="m", total=4)
        elif now.status is BatchStatus.IN_PROGRESS and len(batches.done(tx, now.id)) < 4:
            batches.write(tx, mine, [result(draw.randint(1, 4), draw.random() < 0.7)], lease_seconds=LEASE)
        elif now.status is BatchStatus.IN_PROGRESS:
            batches.finalize(tx, mine)
        else:
            batches.end(tx, batches.write(tx, mine, lease_seconds=LEASE), output_file="o", error_file=None)

    for _ in range(400):
        with database.transaction() as tx:
            act(tx)
        now = look(database, batch)
        if now.status is not seen[-1]:
            seen.append(now.status)
        with database.read() as tx:
            stored = tx.execute(sa.select(tables.batch_results.c.ok)).scalars().all()
        assert (now.completed, now.failed) == (sum(stored), len(stored) - sum(stored))
        assert (now.lease_owner is None) or not now.status.terminal
        assert (now.errors is not None) == (now.status is BatchStatus.FAILED)
        if now.status is BatchStatus.COMPLETED:
            assert len(stored) == now.total == 4
        if now.status.terminal:
            break
    assert seen[-1].terminal
    for old, new in itertools.pairwise(seen):
        # One transaction may make two moves: an overdue batch that begins.
        assert (str(old), str(new)) in ALLOWED


def test_a_result_counts_in_the_project_s_usage_as_often_as_it_is_stored(any_database: Database) -> None:
    batch = running(any_database, total=4)
    unknown = BatchResult(4, ok=False, body="{}", asked=False)
    write(any_database, batch, result(1), result(2))
    write(any_database, batch, result(2), result(3, ok=False), unknown)
    with pytest.raises(LeaseLost):
        write(any_database, dataclasses.replace(batch, fence=batch.fence - 1), result(4))
    with any_database.read() as tx:
        (row,) = usage.read(tx, "proj_a", "2000-01-01", "2999-12-31", by=["model"])
    assert (row.model, row.amounts) == ("m", Amounts(3, 1, 4, 2))
