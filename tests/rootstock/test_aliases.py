"""Aliases on a real database: moves, history, rollback, shares that stick."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock import aliases, keys, models
from rootstock.aliases import AliasRecord, Target
from rootstock.db import Database
from rootstock.errors import AliasConflict, AliasNotFound, InvalidValue, ModelNotFound
from rootstock.records import Caller, ModelState
from rootstock.settings import Settings
from tests.rootstock.rows import add_job, add_project

OLD, NEW = "ft:tiny:org:old:aaaaaaaa", "ft:tiny:org:new:bbbbbbbb"
ME = Caller(keys.DEFAULT_PROJECT, "org", "key_mine", "owner")
SETTINGS = Settings()


@pytest.fixture
def database(any_database: Database) -> Database:
    """Two ready models of the default project, and one that is not ready."""
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        add_project(tx, "proj_other")
        job_id = add_job(tx)
        for name, state in ((OLD, ModelState.READY), (NEW, ModelState.READY), ("ft:tiny:org::c", ModelState.VERIFYING)):
            adapter = f"lora-{name[-1] * 24}"
            models.register(
                tx, name=name, project_id=ME.project_id, job_id=job_id, base="tiny", adapter_id=adapter, state=state
            )
    return any_database


def put(database: Database, target: Target, **more: object) -> AliasRecord:
    with database.transaction() as tx:
        return aliases.put(tx, SETTINGS, ME, "acme-support", target, **more)  # type: ignore[arg-type]


def history(database: Database) -> list[tuple[int, str | None, str | None]]:
    with database.read() as tx:
        page = aliases.history(tx, ME.project_id, "acme-support", limit=100, after=None, order="asc")
    return [
        (move.revision, move.before.model if move.before else None, move.after.model if move.after else None)
        for move in page.data
    ]


def test_moves_are_counted_and_kept(database: Database):
    assert put(database, Target(OLD)).revision == 1
    moved = put(database, Target(NEW), note="better", expected_revision=1)
    assert (moved.target.model, moved.revision) == (NEW, 2)
    assert history(database) == [(1, None, OLD), (2, OLD, NEW)]
    with database.read() as tx:
        (last, _) = aliases.history(tx, ME.project_id, "acme-support", limit=9, after=None, order="desc").data
        assert (last.key_id, last.note) == ("key_mine", "better")
        assert aliases.pointing_to(tx, ME.project_id, NEW) == ["acme-support"]
        assert aliases.pointing_to(tx, ME.project_id, OLD) == []
        assert aliases.find(tx, "proj_other", "acme-support") is None


def test_rolling_back_is_one_call_and_itself_a_move(database: Database):
    put(database, Target(OLD))
    put(database, Target(OLD, NEW, 20))
    put(database, Target(NEW))
    with database.transaction() as tx:
        assert aliases.roll_back(tx, SETTINGS, ME, "acme-support").target == Target(OLD, NEW, 20)
    with database.transaction() as tx:
        assert aliases.roll_back(tx, SETTINGS, ME, "acme-support", revision=1).target == Target(OLD)
        with pytest.raises(InvalidValue, match="no model at revision 9"):
            aliases.roll_back(tx, SETTINGS, ME, "acme-support", revision=9)
    assert [revision for revision, *_ in history(database)] == [1, 2, 3, 4, 5]


def test_the_first_move_and_a_lost_model_cannot_be_rolled_back_to(database: Database):
    put(database, Target(OLD))
    with database.transaction() as tx, pytest.raises(InvalidValue, match="nothing before"):
        aliases.roll_back(tx, SETTINGS, ME, "acme-support")
    put(database, Target(NEW))
    with database.transaction() as tx:
        models.delete(tx, ME.project_id, OLD)
        with pytest.raises(ModelNotFound):
            aliases.roll_back(tx, SETTINGS, ME, "acme-support")
    assert len(history(database)) == 2


def test_a_deleted_name_is_refused_and_its_history_goes_on(database: Database):
    put(database, Target(OLD))
    with database.transaction() as tx:
        aliases.delete(tx, ME, "acme-support")
        with pytest.raises(AliasNotFound):
            aliases.delete(tx, ME, "acme-support")
        assert aliases.find(tx, ME.project_id, "acme-support") is None
        assert aliases.list_all(tx, ME.project_id) == []
    assert put(database, Target(NEW), expected_revision=0).revision == 3
    assert history(database) == [(1, None, OLD), (2, OLD, None), (3, None, NEW)]


def test_a_base_model_may_answer_too(database: Database):
    assert put(database, Target("gpt-4o-mini", OLD, 50)).target.model == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("target", "param"),
    [
        (Target("ft:tiny:org::c"), "model"),
        (Target("ft:never:was::d"), "model"),
        (Target("acme-support"), "model"),
        (Target(OLD, "ft:never:was::d", 10), "canary.model"),
    ],
)
def test_only_models_that_can_be_called_are_pointed_to(database: Database, target: Target, param: str):
    with pytest.raises(ModelNotFound) as caught:
        put(database, target)
    assert caught.value.param == param
    with pytest.raises(AliasNotFound):
        history(database)


@pytest.mark.parametrize("name", ["", "ft:x", "a/b", "-a", "é", "a" * 129, "gpt-4o-mini", SETTINGS.base_name])
def test_names_that_mean_something_else_are_refused(database: Database, name: str):
    with database.transaction() as tx, pytest.raises(InvalidValue) as caught:
        aliases.put(tx, SETTINGS, ME, name, Target(OLD))
    assert caught.value.param == "name"


def test_whoever_expected_another_revision_is_refused(database: Database):
    put(database, Target(OLD))
    for expected in (0, 2):
        with pytest.raises(AliasConflict):
            put(database, Target(NEW), expected_revision=expected)
    assert history(database) == [(1, None, OLD)]


def test_of_many_moves_at_once_each_is_one_step_of_the_history(database: Database):
    put(database, Target(OLD))

    def move(number: int) -> int:
        try:
            put(database, Target(NEW if number % 2 else OLD))
        except AliasConflict:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(move, range(16)))
    steps = history(database)
    assert len(steps) == done + 1 >= 2
    assert [before for _, before, _ in steps[1:]] == [after for *_, after in steps[:-1]]


def test_pins_are_the_adapters_behind_pinned_aliases(database: Database):
    assert put(database, Target(OLD, NEW, 10), pinned=True).pinned
    assert put(database, Target("gpt-4o-mini", NEW, 10)).pinned  # a move keeps it
    with database.read() as tx:
        assert aliases.pinned_adapters(tx, "tiny") == ["lora-" + "b" * 24]
    assert not put(database, Target(OLD), pinned=False).pinned
    with database.read() as tx:
        assert aliases.pinned_adapters(tx, "tiny") == []


def chosen(percent: int, user: str) -> str:
    return aliases.choose("alias_1", Target(OLD, NEW, percent), user)


def test_the_canary_gets_its_share():
    counts = Counter(chosen(10, f"user-{number}") for number in range(20_000))
    assert 1_800 < counts[NEW] < 2_200
    assert aliases.choose("alias_1", Target(OLD), "u") == OLD


@given(user=st.text(), smaller=st.integers(1, 99), larger=st.integers(1, 99))
def test_a_user_stays_where_it_is_when_the_share_grows(user: str, smaller: int, larger: int):
    first, second = (chosen(percent, user) for percent in sorted((smaller, larger)))
    assert first == OLD or second == NEW
    assert chosen(smaller, user) == chosen(smaller, user)
