"""A key makes one thing: for a day, for one request, for one project, however many ask at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from rootstock import idempotency, tables
from rootstock.db import Database
from rootstock.errors import IdempotencyKeyReused
from tests.rootstock import making

REQUEST = {"model": "m", "metadata": {"a": "1", "b": "2"}}


def attempt(
    project: str = "proj_a", kind: str = "job", key: str | None = "k", request: Any = REQUEST
) -> idempotency.Attempt:
    return idempotency.Attempt(project, kind, key, request)


@pytest.fixture
def used(any_database: Database) -> Database:
    """A database in which the key `k` of `proj_a` has made `thing-1`."""
    with any_database.transaction() as tx:
        making.project(tx, "proj_a")
        making.project(tx, "proj_b")
        assert attempt().recall(tx) is None
        attempt().remember(tx, "thing-1")
    return any_database


def test_the_same_request_finds_what_it_made(used: Database) -> None:
    reordered = {"metadata": {"b": "2", "a": "1"}, "model": "m"}
    with used.transaction() as tx:
        assert attempt().recall(tx) == attempt(request=reordered).recall(tx) == "thing-1"


@pytest.mark.parametrize("other", [{"request": {"model": "n"}}, {"kind": "batch"}])
def test_another_request_may_not_use_the_key(used: Database, other: dict[str, Any]) -> None:
    with used.transaction() as tx, pytest.raises(IdempotencyKeyReused):
        attempt(**other).recall(tx)


@pytest.mark.parametrize("other", [{"project": "proj_b"}, {"key": "l"}, {"key": None}])
def test_other_keys_and_projects_know_nothing_of_it(used: Database, other: dict[str, Any]) -> None:
    with used.transaction() as tx:
        assert attempt(**other).recall(tx) is None
        attempt(**other).remember(tx, "thing-2")
        assert attempt().recall(tx) == "thing-1"


def test_what_is_rolled_back_is_not_remembered(used: Database) -> None:
    def fail_after_remembering() -> None:
        with used.transaction() as tx:
            attempt(key="l").remember(tx, "thing-2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_remembering()
    with used.transaction() as tx:
        assert attempt(key="l").recall(tx) is None


def age(database: Database, seconds: float) -> None:
    keys = tables.idempotency_keys
    with database.transaction() as tx:
        tx.execute(keys.update().values(created_at=keys.c.created_at - seconds))


def test_a_key_is_free_again_after_a_day(used: Database) -> None:
    age(used, idempotency.KEPT_SECONDS - 60)
    with used.transaction() as tx:
        assert attempt().recall(tx) == "thing-1"
        assert idempotency.forget_old(tx) == 0
    age(used, 60)
    with used.transaction() as tx:
        assert attempt(request={"model": "n"}).recall(tx) is None
        attempt(request={"model": "n"}).remember(tx, "thing-2")
        assert attempt(request={"model": "n"}).recall(tx) == "thing-2"


def test_old_keys_are_forgotten(used: Database) -> None:
    age(used, idempotency.KEPT_SECONDS)
    with used.transaction() as tx:
        attempt(key="l").remember(tx, "thing-2")
        assert (idempotency.forget_old(tx), idempotency.forget_old(tx)) == (1, 0)
        assert attempt(key="l").recall(tx) == "thing-2"


def test_many_at_once_make_one_thing(used: Database) -> None:
    begin = Barrier(8)

    def create(number: int) -> str:
        begin.wait(20)
        with used.transaction() as tx:
            one = attempt(key="together")
            earlier = one.recall(tx)
            if earlier is None:
                one.remember(tx, f"thing-{number}")
            return earlier or f"thing-{number}"

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(create, range(8)))
    assert len(made) == 1
