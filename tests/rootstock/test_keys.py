"""API keys: what a key looks like, who it belongs to, and everything that must not open anything."""

import re

import pytest
import sqlalchemy as sa

from rootstock import keys, tables
from rootstock.db import Database
from rootstock.errors import InvalidApiKey
from tests.rootstock.rows import add_project


def make_key(database: Database) -> str:
    with database.transaction() as tx:
        return keys.create(tx, keys.ensure_default_project(tx, "acme"), "first")


def test_a_key_opens_its_project(any_database: Database) -> None:
    key = make_key(any_database)
    with any_database.read() as tx:
        caller = keys.authenticate(tx, key)
    assert (caller.project_id, caller.organization_id) == ("proj_default", "acme")
    assert re.fullmatch(r"sk-rs-[A-Za-z0-9]{8}-[A-Za-z0-9_-]{43}", key)


def test_two_projects_keys_open_their_own(any_database: Database) -> None:
    first = make_key(any_database)
    with any_database.transaction() as tx:
        second = keys.create(tx, add_project(tx, "proj_b"), "k")
        assert keys.authenticate(tx, second).project_id == "proj_b"
        assert keys.authenticate(tx, first).project_id == "proj_default"


def test_nothing_stored_contains_the_secret(database: Database) -> None:
    key = make_key(database)
    secret = key.split("-", 3)[3]
    with database.read() as tx:
        stored = repr(tx.execute(sa.select(tables.api_keys)).all())
    assert secret not in stored


def test_every_near_miss_is_refused_alike(any_database: Database) -> None:
    key = make_key(any_database)
    wrong_secret = key[:-1] + ("A" if key[-1] != "A" else "B")
    unknown_prefix = key[:6] + ("x" if key[6] != "x" else "y") + key[7:]
    tries = [
        wrong_secret,
        unknown_prefix,
        key + "A",
        key[:-1],
        key.upper(),
        " " + key,
        "",
        "sk-",
        "\0",
        "\ud800",
        "ü" * 99,
    ]
    with any_database.read() as tx:
        for attempt in tries:
            with pytest.raises(InvalidApiKey) as caught:
                keys.authenticate(tx, attempt)
            assert key not in caught.value.message


def test_a_revoked_key_is_refused_and_cannot_be_revoked_again(any_database: Database) -> None:
    key = make_key(any_database)
    with any_database.transaction() as tx:
        caller = keys.authenticate(tx, key)
        assert keys.revoke(tx, "proj_other", caller.key_id) is False
        assert keys.revoke(tx, caller.project_id, caller.key_id) is True
        assert keys.revoke(tx, caller.project_id, caller.key_id) is False
        with pytest.raises(InvalidApiKey):
            keys.authenticate(tx, key)


def test_the_default_project_is_made_once_and_follows_the_configured_organization(any_database: Database) -> None:
    key = make_key(any_database)
    with any_database.transaction() as tx:
        assert keys.ensure_default_project(tx, "renamed") == "proj_default"
        assert keys.authenticate(tx, key).organization_id == "renamed"
