"""Each rule of the sweep puts right what it is for, twice in a row without harm, and never stops another rule."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from rootstock import completions, db, files, idempotency, ids, jobs, models, publish, releases, tables
from rootstock import sweep as rules
from rootstock.db import Database, Tx
from rootstock.errors import JobFailure, StoreError
from rootstock.records import DataCheck, DataFault, DataFormat, JobStatus
from rootstock.settings import Settings
from rootstock.storage import LocalStore, Store
from rootstock.sweep import GRACE_SECONDS, Sweep
from tests.rootstock import making

NOTHING = {
    "judge": 0,
    "lost_worker": 0,
    "lost_bell": 0,
    "lost_batch_worker": 0,
    "lost_batch_bell": 0,
    "forget_results": 0,
    "withdraw": 0,
    "expire_upload": 0,
    "lost_eval_worker": 0,
    "lost_eval_bell": 0,
    "purge_eval": 0,
    "purge_upload": 0,
    "purge_file": 0,
    "purge_model": 0,
    "purge_state": 0,
    "forget_key": 0,
    "purge_delivery": 0,
    "purge_completion": 0,
    "forget_teacher_key": 0,
    "end_watch": 0,
}


class Bell:
    """Notes what was rung; `away` is a Redis that does not answer."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str, int]] = []
        self.tried = 0
        self.away = False

    def ring(self, queue_name: str, row_id: str, rings: int) -> bool:
        self.tried += 1
        if not self.away:
            self.rung.append((queue_name, row_id, rings))
        return not self.away


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def sweep(database: Database, store: LocalStore, bell: Bell) -> Sweep:
    return new_sweep(database, store, bell)


def new_sweep(database: Database, store: Store, bell: Any) -> Sweep:
    return Sweep(database, store, bell, Settings(max_attempts=2))


def stored(database: Database, table: sa.Table, **changes: Any) -> None:
    with database.transaction() as tx:
        tx.execute(table.update().values(**changes))


def age(database: Database) -> None:
    """Let everything that was deleted or has ended be older than the grace."""
    with database.transaction() as tx:
        past = db.now() - GRACE_SECONDS - 1
        tx.execute(tables.models.update().where(tables.models.c.deleted_at.is_not(None)).values(deleted_at=past))
        tx.execute(tables.jobs.update().where(tables.jobs.c.finished_at.is_not(None)).values(finished_at=past))


def test_good_files_queue_the_job_and_ring(database: Database, sweep: Sweep, bell: Bell) -> None:
    with database.transaction() as tx:
        job = making.submit(tx, validation=making.upload(tx))
    assert sweep.judge(job.id)
    assert not sweep.judge(job.id)
    queued = making.look(database, job.id)
    assert (queued.status, queued.rings) == (JobStatus.QUEUED, 1)
    assert bell.rung == [("rootstock-train-tiny", job.id, 1)]
    assert sweep.run_once() == NOTHING


FEW = DataCheck(format=DataFormat.CHAT, examples=7)
FAULTY = DataCheck(
    format=DataFormat.CHAT,
    examples=20,
    faults=(DataFault(3, "invalid_training_file", "Invalid file format. Example 3, message 2 is wrong"),),
    faults_total=1,
)


@pytest.mark.parametrize(
    ("training", "validation", "code", "param"),
    [
        (FEW, making.GOOD, "invalid_n_examples", "training_file"),
        (FAULTY, making.GOOD, "invalid_training_file", "training_file"),
        (making.GOOD, FAULTY, "invalid_validation_file", "validation_file"),
        (None, making.GOOD, "invalid_n_examples", "training_file"),
    ],
)
def test_bad_files_fail_the_job_with_the_contracts_code(
    database: Database,
    sweep: Sweep,
    bell: Bell,
    training: DataCheck | None,
    validation: DataCheck | None,
    code: str,
    param: str,
) -> None:
    with database.transaction() as tx:
        job = making.submit(
            tx, training=making.upload(tx, check=training), validation=making.upload(tx, check=validation)
        )
    assert sweep.run_once() == NOTHING | {"judge": 1}
    failed = making.look(database, job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert (failed.error["code"], failed.error["param"]) == (code, param)
    assert making.said(database, job.id)[-1].message == failed.error["message"]
    assert bell.tried == 0


@pytest.mark.parametrize(
    ("check", "code"), [(FAULTY, "invalid_replay_file"), (None, "invalid_n_examples"), (FEW, None)]
)
def test_the_file_of_general_examples_is_judged_too(
    any_database: Database, store: Store, bell: Bell, tmp_path: Path, check: DataCheck | None, code: str | None
) -> None:
    sweep = Sweep(any_database, store, bell, Settings(data_dir=tmp_path))
    with any_database.transaction() as tx:
        general = making.upload(tx, check=check)
        tx.execute(tables.files.update().where(tables.files.c.id == general.id).values(status="uploaded"))
        replay = {"share": 0.2, "file": general.id, "object": general.object_key}
        job = making.submit(tx, rootstock={"replay": replay})
        other = making.submit(tx)
        assert [one.id for one in jobs.validating(tx)] == [other.id]
    assert not sweep.judge(job.id)  # its content is still to be read
    with any_database.transaction() as tx:
        tx.execute(tables.files.update().where(tables.files.c.id == general.id).values(status="processed"))
        assert {one.id for one in jobs.validating(tx)} == {job.id, other.id}
    sweep.judge(job.id)
    judged = making.look(any_database, job.id)
    assert judged.status is (JobStatus.FAILED if code else JobStatus.QUEUED)
    if code:
        assert judged.error is not None
        assert (judged.error["code"], judged.error["param"]) == (code, "rootstock.replay.file")


def test_a_file_that_was_deleted_meanwhile_is_still_judged(database: Database, sweep: Sweep) -> None:
    with database.transaction() as tx:
        job = making.submit(tx)
        files.delete(tx, job.project_id, job.training_file)
    sweep.judge(job.id)
    assert making.look(database, job.id).status is JobStatus.QUEUED


def test_a_check_that_cannot_be_read_ends_the_job_instead_of_hanging_it(database: Database, sweep: Sweep) -> None:
    with database.transaction() as tx:
        job = making.submit(tx)
    stored(database, tables.files, check={"from": "another version"})
    sweep.judge(job.id)
    failed = making.look(database, job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "server_error"


def test_a_bell_that_was_lost_rings_again_and_one_that_is_young_does_not(
    database: Database, sweep: Sweep, bell: Bell
) -> None:
    job = making.queue(database)
    assert sweep.run_once() == NOTHING | {"lost_bell": 1}
    assert sweep.run_once() == NOTHING
    stored(database, tables.jobs, rung_at=db.now() - 21)
    assert sweep.run_once() == NOTHING | {"lost_bell": 1}
    assert bell.rung == [("rootstock-train-tiny", job.id, 1), ("rootstock-train-tiny", job.id, 2)]


def test_without_redis_the_sweep_goes_on_and_rings_when_it_is_back(
    database: Database, sweep: Sweep, bell: Bell
) -> None:
    waiting = [making.queue(database).id for _ in range(3)]
    with database.transaction() as tx:
        fresh = making.submit(tx).id
    bell.away = True
    assert sweep.run_once() == NOTHING | {"judge": 1}
    assert bell.tried == 2, "one try per rule is enough to know that Redis is away"
    bell.away = False
    assert sweep.run_once() == NOTHING | {"lost_bell": 4}
    assert {job_id for _, job_id, _ in bell.rung} == {*waiting, fresh}


def test_a_dead_worker_loses_its_job_and_at_last_the_job_fails(
    database: Database, sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    making.queue(database)
    for outcome in (JobStatus.QUEUED, JobStatus.FAILED):
        stored(database, tables.jobs, not_before=db.now())
        job = making.claim(database)
        assert job is not None
        assert sweep.run_once() == NOTHING
        making.expire(database, job.id)
        assert sweep.run_once() == NOTHING | {"lost_worker": 1}
        assert making.look(database, job.id).status is outcome
        assert f"worker-1 lost {job.id}" in caplog.text
    assert making.outcomes(database, job.id) == ["lost", "lost"]


def test_a_model_that_never_answered_goes_with_its_job(database: Database, sweep: Sweep, store: LocalStore) -> None:
    job = making.bring(database, JobStatus.FINALIZING)
    store.put_bytes(f"adapters/{job.adapter_id}/manifest.json", b"{}")
    with database.transaction() as tx:
        jobs.cancel(tx, job.project_id, job.id)
    assert sweep.run_once() == NOTHING | {"withdraw": 1}
    age(database)
    assert sweep.run_once() == NOTHING | {"purge_model": 1}
    assert store.list("adapters/") == []
    assert sweep.run_once() == NOTHING


def test_a_deleted_file_is_removed_when_no_living_job_reads_it(
    database: Database, sweep: Sweep, store: LocalStore
) -> None:
    job = making.run(database)
    store.put_bytes(job.training_object, b"data")
    said = {"job_id": job.id, "role": "tuned", "number": 0, "answer": "Mrs. Smith", "score": 1.0}
    with database.transaction() as tx:
        files.delete(tx, job.project_id, job.training_file)
        releases.begin(tx, job)
        tx.execute(tables.release_answers.insert().values(said))
    assert sweep.run_once() == NOTHING
    assert store.get_bytes(job.training_object) == b"data"
    with database.transaction() as tx:
        jobs.fail(tx, job.id, job.fence, JobFailure("server_error", "It broke."))
    assert sweep.run_once() == NOTHING | {"purge_file": 1}
    assert store.list("files/") == []
    with database.read() as tx:
        (answer,) = tx.execute(tables.release_answers.select()).all()
    assert (answer.answer, answer.score) == (None, 1.0), "what was said to its examples goes with them"
    assert sweep.run_once() == NOTHING


def test_a_deleted_model_is_removed_after_the_grace(database: Database, sweep: Sweep, store: LocalStore) -> None:
    kept = making.bring(database, JobStatus.SUCCEEDED)
    gone = making.bring(database, JobStatus.SUCCEEDED)
    for job in (kept, gone):
        store.put_bytes(f"adapters/{job.adapter_id}/adapter_model.safetensors", b"weights")
    with database.transaction() as tx:
        models.delete(tx, gone.project_id, str(gone.fine_tuned_model))
    assert sweep.run_once() == NOTHING
    assert len(store.list("adapters/")) == 2
    age(database)
    assert sweep.run_once() == NOTHING | {"purge_model": 1}
    assert store.list("adapters/") == [f"adapters/{kept.adapter_id}/adapter_model.safetensors"]


def test_resume_states_are_removed_when_their_job_has_ended(database: Database, store: LocalStore, bell: Bell) -> None:
    ended, running = making.run(database), making.run(database)
    with database.transaction() as tx:
        making.checkpoint(tx, ended, 1)
        making.checkpoint(tx, running, 1)
        making.finalize(tx, ended)
        assert publish.succeed(tx, ended.id)
    for job in (ended, running):
        store.put_bytes(f"states/{job.id}/handed-back-7/state.pt", b"state")  # no row names this one
    stranger = f"states/{ids.new('ftjob-')}/adapter-x/state.pt"
    store.put_bytes(stranger, b"of another deployment")
    assert new_sweep(database, store, bell).run_once() == NOTHING, "an upload may still be under way"
    age(database)
    sweep = new_sweep(database, store, bell)
    assert sweep.run_once() == NOTHING | {"purge_state": 1}
    assert sorted(store.list("states/")) == sorted([f"states/{running.id}/handed-back-7/state.pt", stranger])
    with database.read() as tx:
        assert {c.state_prefix for c in jobs.list_checkpoints(tx, ended.project_id, ended.id).data} == {None}
        assert jobs.list_checkpoints(tx, running.project_id, running.id).data[0].state_prefix is not None


class BrokenStore(LocalStore):
    """Refuses to delete some keys."""

    def __init__(self, root: Path, broken: set[str]) -> None:
        super().__init__(root)
        self.broken = broken
        self.refused = 0

    def delete(self, key: str) -> None:
        if key in self.broken:
            self.refused += 1
            raise StoreError("The store refused.")
        super().delete(key)


def test_a_row_that_fails_stops_neither_the_others_nor_other_rules(
    database: Database, tmp_path: Path, bell: Bell, caplog: pytest.LogCaptureFixture
) -> None:
    with database.transaction() as tx:
        uploads = [making.upload(tx) for _ in range(6)]
        for file in uploads:
            files.delete(tx, file.project_id, file.id)
    making.queue(database)
    store = BrokenStore(tmp_path / "store", {uploads[2].object_key})
    assert new_sweep(database, store, bell).run_once() == NOTHING | {"lost_bell": 1, "purge_file": 5}
    assert "purge_file: The store refused." in caplog.text
    assert "Traceback" not in caplog.text


def test_a_store_that_is_away_is_not_asked_for_every_row(database: Database, tmp_path: Path, bell: Bell) -> None:
    with database.transaction() as tx:
        uploads = [making.upload(tx) for _ in range(20)]
        for file in uploads:
            files.delete(tx, file.project_id, file.id)
    store = BrokenStore(tmp_path / "store", {file.object_key for file in uploads})
    assert new_sweep(database, store, bell).run_once() == NOTHING
    assert store.refused == 3


def test_a_rule_that_breaks_does_not_stop_the_others(
    database: Database, sweep: Sweep, bell: Bell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Tx) -> Any:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(jobs, "validating", broken)
    making.queue(database)
    assert sweep.run_once() == NOTHING | {"lost_bell": 1}
    assert "a mistake of ours" in caplog.text


def test_what_was_put_right_is_counted(database: Database, sweep: Sweep) -> None:
    before = lost_bells()
    making.queue(database)
    sweep.run_once()
    assert lost_bells() == before + 1


def lost_bells() -> float:
    return REGISTRY.get_sample_value("rootstock_sweep_repairs_total", {"rule": "lost_bell"}) or 0.0


def test_idempotency_keys_are_forgotten_after_a_day(database: Database, sweep: Sweep) -> None:
    with database.transaction() as tx:
        making.project(tx, "proj_a")
        for key in ("old", "new"):
            idempotency.Attempt("proj_a", "job", key, {}).remember(tx, f"ftjob-{key}")
        keys = tables.idempotency_keys
        aged = keys.c.created_at - idempotency.KEPT_SECONDS
        tx.execute(keys.update().where(keys.c.key == "old").values(created_at=aged))
    assert sweep.run_once() == NOTHING | {"forget_key": 1}
    assert sweep.run_once() == NOTHING
    with database.transaction() as tx:
        assert idempotency.Attempt("proj_a", "job", "new", {}).recall(tx) == "ftjob-new"


def test_rows_to_forget_do_not_gather(database: Database, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "BATCH", 2)
    with database.transaction() as tx:
        making.project(tx, "proj_a")
        for number in range(5):
            answer = {"id": f"chatcmpl-{number}", "model": "base"}
            completions.keep(tx, "proj_a", request_id="r", request={}, response=answer, metadata=None)
        tx.execute(tables.stored_completions.update().values(expires_at=1.0))
    assert sweep.run_once() == NOTHING | {"purge_completion": 5}
