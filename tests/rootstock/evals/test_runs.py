"""Rows of evals and runs: the table of moves, leases and fences, items stored once, deletion; on both databases."""

from random import Random
from typing import Any

import pytest

from rootstock import db, tables, usage
from rootstock.db import Database, Tx
from rootstock.errors import InvalidRequest, InvalidValue, LeaseLost, NotFound
from rootstock.evals import definitions, items, runs
from rootstock.evals.records import ASKED, EvalRecord, ItemStatus, Outcome, RunRecord, RunStatus
from tests.rootstock import making

# Written out here, not taken from `runs.MOVES`: a change of the table must be a change of two places.
ALLOWED = {
    ("queued", "in_progress"),
    ("queued", "failed"),
    ("queued", "canceled"),
    ("in_progress", "completed"),
    ("in_progress", "failed"),
    ("in_progress", "canceled"),
}
LEASE = 30.0
MAX_ATTEMPTS = 3
DAY = 86400.0


def an_eval(tx: Tx, project_id: str = "proj_a", name: str = "e") -> EvalRecord:
    return definitions.create(
        tx,
        making.project(tx, project_id),
        name=name,
        data_source_config={"type": "custom"},
        testing_criteria=[{"id": "c-1", "type": "python"}],
        metadata=None,
    )


def submit(tx: Tx, of: EvalRecord | None = None, *, copies: bool = False) -> RunRecord:
    return runs.create(
        tx,
        of or an_eval(tx),
        name="r",
        model="m",
        data_source={"type": "jsonl"},
        input_object="files/file-1",
        copies=copies,
        metadata=None,
    )


def claim(database: Database) -> RunRecord | None:
    with database.transaction() as tx:
        return runs.claim(tx, worker="w", lease_seconds=LEASE)


def running(database: Database) -> RunRecord:
    with database.transaction() as tx:
        submit(tx)
    run = claim(database)
    assert run is not None
    with database.transaction() as tx:
        begun = runs.begin(tx, run, total=3)
    assert begun is not None
    return begun


def outcome(number: int, status: ItemStatus = ItemStatus.PASS, tokens: int = 2) -> Outcome:
    sample = {"error": {"code": "x", "message": "y"}} if status is ItemStatus.ERROR else None
    result = {"name": "c-1", "type": "python", "score": 1.0, "passed": status is ItemStatus.PASS, "sample": sample}
    asked = dict.fromkeys(ASKED, 0) | {"invocation_count": 1, "prompt_tokens": tokens, "total_tokens": tokens}
    return Outcome(number, status, {"n": number}, [result], {"output": []}, {"m": asked})


def write(database: Database, run: RunRecord, *outcomes: Outcome) -> RunRecord:
    with database.transaction() as tx:
        return runs.write(tx, run, outcomes, lease_seconds=LEASE)


def change(database: Database, run: RunRecord, **values: Any) -> None:
    with database.transaction() as tx:
        tx.execute(tables.eval_runs.update().where(tables.eval_runs.c.id == run.id).values(**values))


def look(database: Database, run: RunRecord) -> RunRecord:
    with database.read() as tx:
        return runs.get(tx, run.project_id, run.eval_id, run.id)


def test_the_table_of_moves_is_the_contract() -> None:
    assert {(str(old), str(new)) for old, targets in runs.MOVES.items() for new in targets} == ALLOWED
    assert {status for status, targets in runs.MOVES.items() if not targets} == {
        status for status in RunStatus if status.terminal
    }


def test_a_claim_is_one_workers_alone_and_the_longest_waiting_is_first(any_database: Database) -> None:
    with any_database.transaction() as tx:
        first, second = submit(tx), submit(tx)
        tx.execute(tables.eval_runs.update().where(tables.eval_runs.c.id == second.id).values(not_before=1.0))
        assert {run.id for run in runs.unrung(tx, 20)} == {first.id, second.id}
        runs.held.mark_rung(tx, first.id)
        assert [run.id for run in runs.unrung(tx, 20)] == [second.id]
    taken = [claim(any_database) for _ in range(3)]
    assert [run.id if run else None for run in taken] == [second.id, first.id, None]
    assert taken[0] is not None and (taken[0].fence, taken[0].attempts) == (1, 1)
    with any_database.transaction() as tx:
        assert not runs.another_waits(tx)
        runs.hand_back(tx, taken[0])
        assert runs.another_waits(tx)


def test_items_are_stored_once_and_counted_once(any_database: Database) -> None:
    run = running(any_database)
    write(any_database, run, outcome(1), outcome(2, ItemStatus.FAIL))
    now = write(any_database, run, outcome(2), outcome(3, ItemStatus.ERROR, tokens=5))
    assert (now.passed, now.failed, now.errored, now.total, now.attempts) == (1, 1, 1, 3, 0)
    assert now.tallies["criteria"] == {"c-1": {"passed": 1, "failed": 1, "errored": 1}}
    assert (now.tallies["models"]["m"]["invocation_count"], now.tallies["models"]["m"]["total_tokens"]) == (3, 9)
    with any_database.read() as tx:
        assert items.done(tx, run.id) == {1, 2, 3}
        (row,) = usage.read(tx, "proj_a", "2000-01-01", "2100-01-01", by=("model",))
        assert (row.model, row.amounts.requests, row.amounts.prompt_tokens) == ("m", 3, 9)
        page = items.list_page(tx, run.id, limit=2)
        rest = items.list_page(tx, run.id, after=page.data[-1].id)
        assert [one.number for one in page.data + rest.data] == [1, 2, 3] and page.has_more and not rest.has_more
        assert [one.number for one in items.list_page(tx, run.id, status=ItemStatus.FAIL).data] == [2]
        with pytest.raises(InvalidValue):
            items.list_page(tx, run.id, after="outputitem_none")


def test_a_stale_worker_writes_nothing(any_database: Database) -> None:
    old = running(any_database)
    change(any_database, old, lease_expires_at=db.now() - 1)
    with any_database.transaction() as tx:
        (silent,) = runs.expired_leases(tx)
        assert runs.requeue(tx, silent, MAX_ATTEMPTS) is not None
    change(any_database, old, not_before=0.0)
    new = claim(any_database)
    assert new is not None and new.fence == old.fence + 1
    stale: list[Any] = [
        lambda tx: runs.write(tx, old, [outcome(1)], lease_seconds=LEASE),
        lambda tx: runs.complete(tx, old),
        lambda tx: runs.fail(tx, old, "c", "m"),
        lambda tx: runs.hand_back(tx, old),
    ]
    for act in stale:
        with pytest.raises(LeaseLost), any_database.transaction() as tx:
            act(tx)
    with any_database.read() as tx:
        assert items.done(tx, old.id) == set()
    assert look(any_database, old).status is RunStatus.IN_PROGRESS


def test_a_canceled_run_takes_nothing_more_from_its_worker(any_database: Database) -> None:
    run = running(any_database)
    write(any_database, run, outcome(1))
    with any_database.transaction() as tx:
        assert runs.cancel(tx, "proj_a", run.eval_id, run.id).status is RunStatus.CANCELED
    with pytest.raises(LeaseLost):
        write(any_database, run, outcome(2))
    found = look(any_database, run)
    assert (found.passed, found.lease_owner) == (1, None) and found.ended_at is not None


def test_an_ended_run_cannot_be_canceled_and_another_projects_is_not_found(any_database: Database) -> None:
    run = running(any_database)
    with any_database.transaction() as tx:
        assert runs.complete(tx, run) is not None
        with pytest.raises(InvalidRequest):
            runs.cancel(tx, "proj_a", run.eval_id, run.id)
        for act in (runs.get, runs.cancel, runs.delete):
            with pytest.raises(NotFound):
                act(tx, making.project(tx, "proj_b"), run.eval_id, run.id)


def test_a_worker_that_dies_again_and_again_fails_the_run(any_database: Database) -> None:
    run = running(any_database)
    for _ in range(MAX_ATTEMPTS):
        change(any_database, run, lease_expires_at=db.now() - 1)
        with any_database.transaction() as tx:
            moved = runs.requeue(tx, run, MAX_ATTEMPTS)
        assert moved is not None
        if moved.status is RunStatus.FAILED:
            break
        assert claim(any_database) is None, "it is given some time"
        change(any_database, run, not_before=0.0)
        again = claim(any_database)
        assert again is not None
        run = again
    assert moved.status is RunStatus.FAILED and moved.error is not None and moved.error["code"] == "server_error"
    with any_database.transaction() as tx:
        assert runs.requeue(tx, run, MAX_ATTEMPTS) is None


def test_pages_by_the_time_of_change_keep_their_cursor(any_database: Database) -> None:
    with any_database.transaction() as tx:
        made = [an_eval(tx, name=f"e{number}") for number in range(5)]
        tx.execute(tables.evals.update().values(updated_at=7.0))  # a tie
        an_eval(tx, "proj_b")
    with any_database.transaction() as tx:
        definitions.change(tx, "proj_a", made[1].id, name="new")
    wanted = [made[index].id for index in (0, 2, 3, 4, 1)]
    with any_database.read() as tx:
        for order in ("asc", "desc"):
            seen: list[str] = []
            while True:
                after = seen[-1] if seen else None
                page = definitions.list_page(tx, "proj_a", limit=2, after=after, order=order, order_by="updated_at")
                seen += [one.id for one in page.data]
                if not page.has_more:
                    break
            assert seen == (wanted if order == "asc" else wanted[::-1])
        with pytest.raises(InvalidValue):
            definitions.list_page(tx, "proj_b", after=made[0].id, order_by="updated_at")


def test_what_is_deleted_is_emptied_at_once_and_removed_in_the_end(any_database: Database) -> None:
    run = running(any_database)
    write(any_database, run, outcome(1))
    with any_database.transaction() as tx:
        copied = submit(tx, definitions.get(tx, "proj_a", run.eval_id), copies=True)
        stays = submit(tx)
        assert copied.input_object == f"{runs.folder(copied.id)}items.jsonl"
        definitions.delete(tx, "proj_a", run.eval_id)
        with pytest.raises(NotFound):
            runs.get(tx, "proj_a", run.eval_id, run.id)
        assert runs.purge(tx, 10, grace_seconds=0) == 0, "an item and an object are left"
        assert items.purge(tx, 10) == 1
        tx.execute(tables.eval_runs.update().where(tables.eval_runs.c.id == copied.id).values(ended_at=1.0))
        assert [one.id for one in runs.with_copies(tx, 10, grace_seconds=DAY)] == [copied.id]
        runs.mark_copy_gone(tx, copied.id)
        assert runs.purge(tx, 10, grace_seconds=DAY) == 0, "a cursor may still name them"
        assert definitions.purge(tx, 10, grace_seconds=-1) == 0
        assert runs.purge(tx, 10, grace_seconds=-1) == 2
        assert definitions.purge(tx, 10, grace_seconds=-1) == 1
        assert runs.get(tx, "proj_a", stays.eval_id, stays.id).status is RunStatus.QUEUED


@pytest.mark.parametrize("seed", range(6))
def test_random_lives_keep_to_the_table_and_reach_an_end(database: Database, seed: int) -> None:
    """Two workers of which either may be stale, an impatient owner, a clock that jumps, a sweep."""
    draw = Random(seed)
    with database.transaction() as tx:
        run = submit(tx)
    workers: list[RunRecord | None] = [None, None]
    number, before = 0, RunStatus.QUEUED
    for _ in range(400):
        who = draw.randrange(2)
        mine = workers[who]
        act = draw.choice(["claim", "begin", "write", "complete", "back", "expire", "sweep", "cancel"])
        if act == "cancel" and draw.random() > 0.05:
            continue
        try:
            with database.transaction() as tx:
                if act == "claim":
                    tx.execute(tables.eval_runs.update().values(not_before=0.0))
                    workers[who] = runs.claim(tx, worker=f"w{who}", lease_seconds=LEASE) or mine
                elif act == "expire":
                    expired = tables.eval_runs.update().where(tables.eval_runs.c.lease_owner.is_not(None))
                    tx.execute(expired.values(lease_expires_at=db.now() - 1))
                elif act == "sweep":
                    for silent in runs.expired_leases(tx):
                        runs.requeue(tx, silent, 100)
                elif act == "cancel":
                    runs.cancel(tx, "proj_a", run.eval_id, run.id)
                elif mine is not None and act == "begin":
                    runs.begin(tx, mine, total=5)
                elif mine is not None and act == "write":
                    number += 1
                    runs.write(tx, mine, [outcome(number % 5)], lease_seconds=LEASE)
                elif mine is not None and act == "complete" and draw.random() < 0.1:
                    runs.complete(tx, mine)
                elif mine is not None and act == "back":
                    runs.hand_back(tx, mine)
        except (LeaseLost, InvalidRequest):
            pass
        now = look(database, run)
        assert now.status is before or (str(before), str(now.status)) in ALLOWED
        with database.read() as tx:
            assert now.passed == len(items.done(tx, run.id))
        assert not (now.status.terminal and now.lease_owner)
        before = now.status
        if before.terminal:
            return
    with database.transaction() as tx:
        assert runs.cancel(tx, "proj_a", run.eval_id, run.id).status is RunStatus.CANCELED
