"""Who asks and what a name means to them, in one statement: the same on both databases as piece by piece."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from rootstock import addressing, aliases, keys, models, permissions, tables
from rootstock.addressing import Meaning
from rootstock.aliases import Target
from rootstock.db import Database, Lookup
from rootstock.errors import InvalidApiKey, ModelNotFound, Unavailable
from rootstock.records import Caller, ModelState
from rootstock.settings import Settings
from tests.rootstock.rows import add_job, add_project

OLD, NEW, UNSEEN = "ft:tiny:org:old:aaaaaaaa", "ft:tiny:org:new:bbbbbbbb", "ft:tiny:org:unseen:cccccccc"
OTHER = "proj_other"
ME = Caller(keys.DEFAULT_PROJECT, "org", "key_mine", keys.OWNER)


@pytest.fixture
def database(any_database: Database) -> Database:
    """Two ready models of the default project and one that was not seen answering yet; another project."""
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        add_project(tx, OTHER)
        job_id = add_job(tx)
        for name, state in ((OLD, ModelState.READY), (NEW, ModelState.READY), (UNSEEN, ModelState.VERIFYING)):
            adapter = f"lora-{name[-1] * 24}"
            models.register(
                tx, name=name, project_id=ME.project_id, job_id=job_id, base="tiny", adapter_id=adapter, state=state
            )
    return any_database


@pytest.fixture
def means(database: Database) -> Callable[..., Meaning]:
    def look(name: str, project: str = ME.project_id) -> Meaning:
        return addressing.of_project(database, project, name)

    return look


def put(database: Database, target: Target) -> str:
    with database.transaction() as tx:
        return aliases.put(tx, Settings(), ME, "acme-support", target).id


def make_key(database: Database, role: str = keys.OWNER) -> str:
    with database.transaction() as tx:
        return keys.create(tx, ME.project_id, "k", role)


def test_a_key_and_a_name_are_found_as_they_are_one_by_one(database: Database) -> None:
    made = [make_key(database), make_key(database, keys.MEMBER)]
    for key in made:
        caller, meaning = addressing.of_key(database, key, OLD)
        with database.read() as tx:
            assert caller == keys.authenticate(tx, key)
            assert meaning == Meaning(None, {OLD: (models.get(tx, ME.project_id, OLD), False)})


@pytest.mark.parametrize("canary", [None, NEW])
def test_an_alias_comes_with_the_models_it_may_stand_for(
    database: Database, means: Callable[..., Meaning], canary: str | None
) -> None:
    target = Target(OLD, canary, 10 if canary else 0)
    alias = put(database, target)
    meaning = means("acme-support")
    assert meaning.alias == (alias, target)
    assert set(meaning.found) == {OLD, canary} - {None}
    assert meaning.model(OLD).adapter_id == "lora-" + "a" * 24
    assert means("acme-support", OTHER) == Meaning(None, {})


def test_a_deleted_alias_means_nothing(database: Database, means: Callable[..., Meaning]) -> None:
    put(database, Target(OLD))
    with database.transaction() as tx:
        aliases.delete(tx, ME, "acme-support")
    assert means("acme-support") == Meaning(None, {})


@pytest.mark.parametrize("name", [UNSEEN, "ft:tiny:org:no:dddddddd", "", "\0", "\ud800", "naïve", "a b", "x" * 300])
def test_what_cannot_be_called_is_not_found(means: Callable[..., Meaning], name: str) -> None:
    meaning = means(name)
    assert meaning == Meaning(None, {})
    with pytest.raises(ModelNotFound):
        meaning.model(name)


def test_a_deleted_model_is_not_found(database: Database, means: Callable[..., Meaning]) -> None:
    with database.transaction() as tx:
        models.delete(tx, ME.project_id, OLD)
    assert not means(OLD).found and means(NEW).found


def test_another_project_finds_a_model_once_it_was_let_in_and_only_that(
    database: Database, means: Callable[..., Meaning]
) -> None:
    assert not means(OLD, OTHER).found
    with database.transaction() as tx:
        permissions.grant(tx, ME.project_id, OLD, [OTHER])
        theirs = {project: keys.create(tx, project, "k") for project in (OTHER, add_project(tx, "proj_third"))}
    assert means(OLD, OTHER).model(OLD) == means(OLD).model(OLD)
    for project, key in theirs.items():
        for name in (OLD, NEW):
            expected = {OLD} if (project, name) == (OTHER, OLD) else set()
            assert set(means(name, project).found) == set(addressing.of_key(database, key, name)[1].found) == expected


def test_a_project_that_there_is_not_finds_nothing(means: Callable[..., Meaning]) -> None:
    assert means(OLD, "proj_none") == Meaning(None, {})


def test_every_near_miss_of_a_key_is_refused(database: Database) -> None:
    key = make_key(database)
    with database.transaction() as tx:
        tx.execute(tables.api_keys.update().values(revoked_at=1.0).where(tables.api_keys.c.prefix == key[6:14]))
    living = make_key(database)
    wrong = living[:-1] + ("A" if living[-1] != "A" else "B")
    unknown = living[:6] + "x" * 8 + living[14:]
    for tried in (key, wrong, unknown, "", "\0", living + "A"):
        with pytest.raises(InvalidApiKey):
            addressing.of_key(database, tried, OLD)


@pytest.mark.integration
def test_a_connection_that_broke_off_is_unavailable_once_at_most(
    postgres_copy: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_copy())
    session = sa.text("SELECT pg_backend_pid()")
    with database.engine.connect() as connection:
        number = connection.execute(session).scalar_one()
    all_rows = Lookup.all

    def cut_off(lookup: Lookup, connection: sa.Connection, **given: object) -> list[tuple[object, ...]]:
        with database.transaction() as tx:  # another connection: the pooled one is ours at the moment
            tx.execute(sa.select(sa.func.pg_terminate_backend(number)))
        return all_rows(lookup, connection, **given)

    with monkeypatch.context() as patched:
        patched.setattr(Lookup, "all", cut_off)
        with pytest.raises(Unavailable):
            addressing.of_project(database, ME.project_id, OLD)
    assert addressing.of_project(database, ME.project_id, OLD) == Meaning(None, {})
    database.close()


@pytest.mark.integration
def test_a_lookup_begins_no_transaction(postgres_copy: Callable[[], str]) -> None:
    database = Database(postgres_copy())
    begun = Lookup(sa.select(sa.func.now() == sa.func.statement_timestamp()))
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        assert begun.all(connection) == begun.all(connection) == [(True,)]
    assert database.ask(begun) == [(True,)]
    database.close()
