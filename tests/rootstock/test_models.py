"""Tuned models: their names, which base a request means, and how a model's row may change."""

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from rootstock import keys, models, tables
from rootstock.db import Database, Tx
from rootstock.errors import ModelNotFound, ModelNotTunable
from rootstock.records import JobStatus, ModelRecord, ModelState
from rootstock.settings import Settings
from tests.rootstock.rows import add_job, add_project, set_job_status

PROJECT = keys.DEFAULT_PROJECT
NAME = "ft:base:org::abcdefgh"


@pytest.fixture
def tx(any_database: Database) -> Iterator[Tx]:
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        yield tx


def make(tx: Tx, name: str = NAME, *, project: str = PROJECT, job: str = "", state: str = "ready") -> ModelRecord:
    return models.register(
        tx,
        name=name,
        project_id=project,
        job_id=job or add_job(tx, project_id=project),
        base="base",
        adapter_id=f"adapter-{name[-8:].lower()}",
        state=ModelState(state),
    )


def test_a_registered_model_reads_back_equal(tx: Tx) -> None:
    made = make(tx)
    assert models.get(tx, PROJECT, NAME) == made
    assert made.state is ModelState.READY


def test_only_ready_models_are_listed_oldest_first(tx: Tx) -> None:
    first, second = make(tx), make(tx, "ft:base:org::bbbbbbbb")
    make(tx, "ft:base:org::cccccccc", state="verifying")
    make(tx, "ft:base:org::dddddddd", project=add_project(tx, "proj_b"))
    models.delete(tx, PROJECT, make(tx, "ft:base:org::eeeeeeee").id)
    assert models.list_ready(tx, PROJECT) == [first, second]


@pytest.mark.parametrize("name", ["gpt-4o", "ft:base:org::nope", "nul\0", "\ud800", ""])
def test_an_unknown_model_is_not_found(tx: Tx, name: str) -> None:
    for call in (models.get, models.delete):
        with pytest.raises(ModelNotFound):
            call(tx, PROJECT, name)


def test_another_projects_model_reads_like_an_absent_one(tx: Tx) -> None:
    make(tx, project=add_project(tx, "proj_b"))
    for call in (models.get, models.delete):
        with pytest.raises(ModelNotFound) as caught:
            call(tx, PROJECT, NAME)
        assert caught.value.message == f"The model '{NAME}' does not exist"


def test_a_deleted_model_stays_deleted_and_its_name_stays_taken(tx: Tx) -> None:
    made = make(tx, state="verifying")
    models.delete(tx, PROJECT, NAME)
    assert models.set_ready(tx, NAME) is False
    assert models.discard(tx, NAME) is False
    for call in (models.get, models.delete):
        with pytest.raises(ModelNotFound):
            call(tx, PROJECT, NAME)
    with pytest.raises(sa.exc.IntegrityError), tx.begin_nested():
        make(tx, job=made.job_id)


def test_a_verified_model_becomes_ready_once(tx: Tx) -> None:
    make(tx, state="verifying")
    assert models.get(tx, PROJECT, NAME).state is ModelState.VERIFYING
    assert models.set_ready(tx, NAME) is True
    assert models.set_ready(tx, NAME) is False
    assert models.get(tx, PROJECT, NAME).state is ModelState.READY


def test_an_adapter_is_purged_only_when_its_model_is_deleted_and_no_living_job_starts_from_it(tx: Tx) -> None:
    job, child = add_job(tx), add_job(tx)
    gone, _kept = make(tx, job=job), make(tx, "ft:base:org::bbbbbbbb", job=job)
    tx.execute(tables.jobs.update().where(tables.jobs.c.id == child).values(start_adapter=gone.adapter_id))
    assert models.purgeable(tx, 10) == []
    assert models.discard(tx, gone.id) is True
    for status in JobStatus:
        set_job_status(tx, child, str(status))
        assert [m.id for m in models.purgeable(tx, 10)] == ([gone.id] if status.terminal else []), status
    models.mark_purged(tx, gone.id)
    assert models.purgeable(tx, 10) == []


def settings(**values: object) -> Settings:
    return Settings.from_env({}, base_model="Qwen/Qwen3-0.6B", **values)


@pytest.mark.parametrize(
    ("requested", "echoed"),
    [
        ("Qwen3-0.6B", "Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini-2024-07-18"),
    ],
)
def test_the_base_and_its_aliases_can_be_tuned(requested: str, echoed: str) -> None:
    assert models.resolve_base(settings(), requested) == (echoed, "Qwen3-0.6B")


def test_a_snapshot_that_jobs_echo_can_be_requested_too() -> None:
    assert models.resolve_base(settings(model_aliases={"mine": "mine-v2"}), "mine-v2") == ("mine-v2", "Qwen3-0.6B")


@pytest.mark.parametrize("requested", ["", "../../x", "org/evil", "Qwen", "ft:gpt-4o:org::abcdefgh", "\0", "x" * 9999])
def test_nothing_else_can_be_tuned(requested: str) -> None:
    with pytest.raises(ModelNotTunable) as caught:
        models.resolve_base(settings(), requested)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("base", "suffix", "step", "name"),
    [
        ("gpt-4o-mini-2024-07-18", None, None, "ft:gpt-4o-mini-2024-07-18:acme::7p4lURel"),
        ("gpt-4o", "initial_tuning", None, "ft:gpt-4o:acme:initial-tuning:7p4lURel"),
        ("Qwen/Qwen3-0.6B", "My Tune!", 12, "ft:Qwen3-0.6B:acme:my-tune:7p4lURel:ckpt-step-12"),
        ("a:b", ":::", None, "ft:a-b:acme::7p4lURel"),
    ],
)
def test_tuned_names(base: str, suffix: str | None, step: int | None, name: str) -> None:
    assert models.tuned_name(base, "acme", suffix, "7p4lURel", step) == name


@given(st.text(min_size=1), st.text(min_size=1), st.text(max_size=64), st.none() | st.integers(0, 10**9))
def test_every_tuned_name_splits_the_way_clients_split_it(
    base: str, organization: str, suffix: str, step: int | None
) -> None:
    fields = models.tuned_name(base, organization, suffix, "7p4lURel", step).split(":")
    assert len(fields) == (5 if step is None else 6)
    assert fields[0] == "ft" and fields[4] == "7p4lURel"
    assert re.fullmatch(r"[a-z0-9-]{0,64}", fields[3])
    assert not re.search(r"[/\s]", "".join(fields))
