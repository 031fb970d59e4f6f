"""Distillations' rows on both databases: claims, leases, fences, what is stored once and what is forgotten."""

from typing import Any

import pytest
import sqlalchemy as sa

from rootstock import db, distillations, files, tables
from rootstock.db import Database
from rootstock.distil import Answer, Drawn, Outcome, Prompt
from rootstock.distil.records import Distillation, Judged, Status
from rootstock.errors import InvalidRequest, LeaseLost, NotFound
from rootstock.usage import Amounts, Key, read
from tests.rootstock import making

SPEC: dict[str, Any] = {"teacher": {"model": "m"}, "budget": {"max_examples": 100, "max_tokens": None}, "seed": 1}
SAID = Answer({"role": "assistant", "content": "yes"}, "stop")


def prompts(count: int) -> list[Prompt]:
    return [Prompt([{"role": "user", "content": str(number)}]) for number in range(count)]


def make(database: Database, count: int = 3, **spec: Any) -> Distillation:
    with database.transaction() as tx:
        project = making.project(tx, "proj_a")
        return distillations.create(tx, project, spec=SPEC | spec, teacher_key="sk-x", prompts=prompts(count))


def claim(database: Database, lease: float = 30.0, worker: str = "w", most: int = 3) -> Distillation | None:
    with database.transaction() as tx:
        return distillations.claim(tx, worker=worker, lease_seconds=lease, max_attempts=most)


def claimed(database: Database, lease: float = 30.0) -> Distillation:
    run = claim(database, lease)
    assert run is not None
    return run


def judged(number: int, tokens: int = 10, outcome: Outcome = Outcome.KEPT) -> Judged:
    return Judged(number, outcome, SAID, Amounts(1, 0, tokens, 0), {"m": Amounts(1, 0, tokens, 0)})


def row(database: Database) -> Any:
    with database.read() as tx:
        return tx.execute(sa.select(tables.distillations)).one()


def test_one_worker_has_it_until_its_lease_ends(any_database: Database) -> None:
    make(any_database)
    first = claimed(any_database, lease=-1)  # as if it had fallen silent
    second = claimed(any_database)
    assert (first.fence, second.fence) == (1, 2) and claim(any_database) is None
    with pytest.raises(LeaseLost), any_database.transaction() as tx:
        distillations.renew(tx, first, [judged(1)], lease_seconds=30)
    with any_database.transaction() as tx:
        distillations.hand_back(tx, second)
    assert claimed(any_database).fence == 3


def test_a_fault_of_ours_that_stays_ends_it(any_database: Database) -> None:
    make(any_database)
    for _ in range(3):
        run = claimed(any_database)
        with any_database.transaction() as tx:
            distillations.requeue(tx, run)
            tx.execute(tables.distillations.update().values(not_before=db.now() - 1))
    assert claim(any_database) is None
    ended = row(any_database)
    assert (ended.status, ended.error["code"], ended.teacher_key) == ("failed", "server_error", None)


def test_what_is_stored_counts_once_and_is_not_asked_again(any_database: Database) -> None:
    make(any_database)
    run = claimed(any_database)
    with any_database.transaction() as tx:
        distillations.renew(tx, run, [judged(1), judged(2, outcome=Outcome.EMPTY)], lease_seconds=30)
    with any_database.transaction() as tx:
        now = distillations.renew(tx, run, [judged(1)], lease_seconds=30)
        assert [one.number for one in distillations.unsettled(tx, run.id, after=0)] == [3]
        kept = distillations.examples(tx, run.id, after=0, outcome=Outcome.KEPT)
        day = Key.today("proj_a", "m").day
        (spent,) = read(tx, "proj_a", day, day, by=())
    assert (now.done, now.outcomes, now.attempts) == (2, {"kept": 1, "empty": 1}, 0)
    assert now.usage == {"prompt_tokens": 20, "completion_tokens": 0}
    assert [(one.number, one.answer) for one in kept] == [(1, SAID)]
    assert spent.amounts == Amounts(2, 0, 20, 0)


def test_the_budget_ends_the_asking(any_database: Database) -> None:
    make(any_database, budget={"max_examples": 100, "max_tokens": 20})
    run = claimed(any_database)
    with any_database.transaction() as tx:
        assert distillations.renew(tx, run, [judged(1)], lease_seconds=30).status is Status.IN_PROGRESS
        now = distillations.renew(tx, run, [judged(2)], lease_seconds=30)
    assert (now.status, now.stopped_by) == (Status.FINALIZING, "max_tokens")


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_every_end_forgets_the_key_and_the_examples(any_database: Database, end: str) -> None:
    make(any_database)
    run = claimed(any_database)
    assert "sk-x" not in repr(run)
    with any_database.transaction() as tx:
        if end == "cancel":
            distillations.cancel(tx, "proj_a", run.id)
        elif end == "fail":
            distillations.fail(tx, run, "c", "m")
        else:
            done = distillations.finalize(tx, run)
            made = {"training_file": "file-a", "provenance_file": "file-b", "provenance": {}}
            distillations.complete(tx, done, outcomes={}, **made)
    ended = row(any_database)
    assert (ended.teacher_key, ended.lease_owner) == (None, None) and ended.finished_at is not None
    with any_database.transaction() as tx:
        assert tx.execute(sa.select(tables.distillation_examples)).all() == []
        with pytest.raises(LeaseLost):
            distillations.add(tx, run, enumerate(prompts(1), 1))
        with pytest.raises(InvalidRequest):
            distillations.cancel(tx, "proj_a", run.id)
        with pytest.raises(NotFound):
            distillations.get(tx, "proj_b", run.id)


def test_a_key_is_kept_for_a_week_at_most(any_database: Database) -> None:
    make(any_database)
    for age, left in ((6, "sk-x"), (8, None)):
        with any_database.transaction() as tx:
            tx.execute(tables.distillations.update().values(created_at=db.now() - age * 86400))
            assert distillations.forget_keys(tx) == (left is None)
        assert row(any_database).teacher_key == left
    assert claimed(any_database).teacher_key is None


def test_reading_begins_anew_and_keeps_the_file(any_database: Database) -> None:
    with any_database.transaction() as tx:
        project = making.project(tx, "proj_a")
        asked = {"size": 1, "sha256": "0" * 64, "check": None, "filename": "x", "purpose": "user_data"}
        files.create(tx, file_id="file-p", project_id=project, object_key="files/file-p", **asked)
        distillations.create(tx, project, spec=SPEC, source_object="files/file-p")
        files.delete(tx, project, "file-p")
        assert files.purgeable(tx, 10) == []
    run = claimed(any_database)
    for _ in range(2):  # the second time by a worker that goes on after the first one died
        with any_database.transaction() as tx:
            distillations.forget_prompts(tx, run)
            distillations.add(tx, run, enumerate(prompts(2), 1))
    with any_database.transaction() as tx:
        begun = distillations.begin(tx, run, Drawn(set(), invalid=1, repeated=0, left_out=0))
        assert (begun.status, begun.total, begun.outcomes) == (Status.IN_PROGRESS, 2, {"invalid_prompt": 1})
        assert [one.id for one in files.purgeable(tx, 10)] == ["file-p"]
