"""Rows of releases on both back-ends: who may measure what and when, and that nothing is written by who lost it."""

import contextlib
import threading
from typing import Any

import pytest

from rootstock import addressing, jobs, keys, models, policies, releases, tables
from rootstock.db import Database, Tx
from rootstock.errors import InvalidRequest, JobNotFound, LeaseLost, ModelHeld
from rootstock.policies import Policy, ReleasePolicy
from rootstock.records import Caller, JobRecord, JobStatus, ModelState
from rootstock.release.verdict import Reason, Verdict, too_few
from rootstock.releases import Answer, Release
from tests.rootstock.rows import add_job, set_job_status

OWNER = Caller(keys.DEFAULT_PROJECT, "org", "key_owner", keys.OWNER)
HOLD = Verdict("hold", (Reason("no_clear_gain", "No clear gain."),), {"examples": 20})


@pytest.fixture
def db(any_database: Database) -> Database:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
    return any_database


def begun(db: Database, **job: Any) -> JobRecord:
    with db.transaction() as tx:
        found = jobs.find(tx, add_job(tx, **job))
        assert found is not None
        releases.begin(tx, found)
        releases.begin(tx, found)
    return found


def claim(db: Database, lease_seconds: float = 60.0) -> Release | None:
    with db.transaction() as tx:
        return releases.claim(tx, worker="w", lease_seconds=lease_seconds)


def proven(db: Database, job: JobRecord) -> None:
    with db.transaction() as tx:
        set_job_status(tx, job.id, "finalizing")
        releases.prove(tx, job.id)


def look(db: Database, job: JobRecord) -> Release:
    with db.read() as tx:
        found = releases.of_job(tx, job.id)
    assert found is not None
    return found


def settle(db: Database, job: JobRecord, verdict: Verdict, by: Release | None = None) -> bool:
    with db.transaction() as tx:
        return releases.settle(tx, job, verdict, by=by)


def enforce(tx: Tx) -> None:
    policies.put(tx, OWNER, Policy(release=ReleasePolicy(mode="enforce")))


def test_a_base_is_asked_while_its_job_lives_and_a_tune_once_it_is_proven(db: Database):
    job = begun(db, status="validating_files")
    assert claim(db) is None, "nobody knows yet whether the files are any good"
    with db.transaction() as tx:
        set_job_status(tx, job.id, "queued")
    first = claim(db)
    assert first is not None and (first.state, first.fence) == ("baseline", 1)
    assert claim(db) is None
    with db.transaction() as tx:
        releases.to_tuned(tx, first, "Baseline: 0.1")
    assert claim(db) is None
    proven(db, job)
    second = claim(db)
    assert second is not None and (second.state, second.fence) == ("tuned", 2)
    assert settle(db, job, HOLD, by=second) and not settle(db, job, HOLD)
    assert claim(db) is None and look(db, job).state == "done"


def test_of_many_workers_each_gets_another_release_and_no_two_the_same(db: Database):
    wanted = {begun(db).id for _ in range(6)}
    taken: list[str] = []
    together = threading.Barrier(4)

    def work() -> None:
        together.wait()
        while (found := claim(db)) is not None:
            taken.append(found.job_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # On PostgreSQL a worker may find nothing because another one is just looking at the last row.
    while (found := claim(db)) is not None:
        taken.append(found.job_id)
    assert sorted(taken) == sorted(wanted)


def test_tunes_that_are_waited_for_go_before_bases(db: Database):
    begun(db)
    late = begun(db)
    proven(db, late)
    found = claim(db)
    assert found is not None and found.job_id == late.id


def test_an_answer_is_kept_once_and_only_from_who_has_the_lease(db: Database):
    job = begun(db)
    dead = claim(db, lease_seconds=-1)
    assert dead is not None
    with db.transaction() as tx:
        releases.store(tx, dead, [Answer("zero_shot", 0, "a", 1.0)], lease_seconds=-1)
        releases.store(
            tx, dead, [Answer("zero_shot", 0, "b", 0.0), Answer("few_shot", 0, None, None)], lease_seconds=-1
        )
    heir = claim(db)
    assert heir is not None and heir.fence == 2
    acts: list[Any] = [
        lambda tx: releases.store(tx, dead, [], lease_seconds=9),
        lambda tx: releases.to_tuned(tx, dead, "x"),
        lambda tx: releases.hand_back(tx, dead),
        lambda tx: releases.settle(tx, job, HOLD, by=dead),
    ]
    for act in acts:
        with db.transaction() as tx, pytest.raises(LeaseLost):
            act(tx)
    with db.read() as tx:
        kept = releases.answers(tx, job.id)
        assert releases.answers(tx, job.id, "few_shot") == {"few_shot": kept["few_shot"]}
    assert kept["zero_shot"][0].text == "a" and kept["few_shot"][0].text is None
    with db.transaction() as tx:
        set_job_status(tx, job.id, "cancelled")
    with db.transaction() as tx, pytest.raises(LeaseLost):
        releases.store(tx, heir, [], lease_seconds=9)


def test_what_is_handed_back_waits_and_counts_only_after_a_fault(db: Database):
    begun(db)
    first = claim(db)
    assert first is not None and first.attempts == 1
    with db.transaction() as tx:
        releases.hand_back(tx, first, after_seconds=-1.0, silent=False)
    second = claim(db)
    assert second is not None and second.attempts == 2
    with db.transaction() as tx:
        releases.hand_back(tx, second, after_seconds=-1.0)
    third = claim(db)
    assert third is not None and third.attempts == 1
    with db.transaction() as tx:
        releases.hand_back(tx, third, after_seconds=60.0)
        assert not releases.another_waits(tx)
    assert claim(db) is None


def test_a_verdict_may_be_given_over_everybody_s_head_and_is_shown_in_the_job(db: Database):
    with db.transaction() as tx:
        job_id = add_job(tx, status="finalizing", rootstock={"adapter": {"type": "lora"}})
        job = jobs.find(tx, job_id)
        assert job is not None
        assert releases.settle(tx, job, too_few(0))
        found = jobs.find(tx, job_id)
    assert found is not None and found.rootstock is not None
    assert found.rootstock["release"]["verdict"] == "unmeasured" and found.rootstock["adapter"] == {"type": "lora"}


@pytest.mark.parametrize("mode", ["inform", "enforce"])
def test_a_hold_holds_the_models_only_where_the_policy_says_so(db: Database, mode: str):
    job = begun(db, status="finalizing")
    with db.transaction() as tx:
        if mode == "enforce":
            enforce(tx)
        model = models.register(
            tx,
            name="ft:a:b::c",
            project_id=job.project_id,
            job_id=job.id,
            base="base",
            adapter_id="adapter-one",
            state=ModelState.READY,
        )
        releases.settle(tx, job, HOLD)
        set_job_status(tx, job.id, str(JobStatus.SUCCEEDED))
    meaning = addressing.of_project(db, job.project_id, model.id)
    with contextlib.nullcontext() if mode == "inform" else pytest.raises(ModelHeld, match=job.id):
        assert meaning.model(model.id) == model
    with db.transaction() as tx:
        if mode == "inform":
            models.check_released(tx, model)
            with pytest.raises(InvalidRequest, match="not held"):
                releases.override(tx, OWNER, job.id, released=True, reason=None)
            return
        with pytest.raises(ModelHeld, match=job.id):
            models.check_released(tx, model)
        releases.override(tx, OWNER, job.id, released=True, reason="seen")
        models.check_released(tx, model)
        again = releases.override(tx, OWNER, job.id, released=False, reason=None)
        assert [kept["released"] for kept in again.overrides] == [True, False] and again.held
        other = Caller("proj_other", "org", "k", keys.OWNER)
        with pytest.raises(JobNotFound):
            releases.override(tx, other, job.id, released=True, reason=None)


def test_answers_go_with_the_file_that_was_asked_and_scores_stay(db: Database):
    kept, gone = begun(db, status="queued"), begun(db, status="queued")
    for _ in range(2):
        release = claim(db)
        assert release is not None
        with db.transaction() as tx:
            releases.store(tx, release, [Answer("zero_shot", 0, "Mrs. Smith", 0.5)], lease_seconds=60)
    with db.transaction() as tx:
        tx.execute(tables.jobs.update().where(tables.jobs.c.id == gone.id).values(validation_object="files/gone"))
        releases.forget_answers(tx, "files/gone")
        found = [releases.answers(tx, job.id)["zero_shot"][0] for job in (kept, gone)]
    assert [(one.text, one.score) for one in found] == [("Mrs. Smith", 0.5), (None, 0.5)]
