"""Who may use a model: the project that made it, those it let in, nobody else, nobody once it is deleted."""

import pytest

from rootstock import keys, models, permissions
from rootstock.db import Database
from rootstock.errors import InvalidValue, ModelNotFound, NotFound, PermissionDenied
from rootstock.records import ModelState
from tests.rootstock.rows import add_job, add_project

OWNER, GUEST, STRANGER = keys.DEFAULT_PROJECT, "proj_guest", "proj_stranger"
NAME = "ft:base:org::abcdefgh"


@pytest.fixture
def shared(any_database: Database) -> Database:
    """A ready model of the default project, two other projects, one of them let in."""
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        add_project(tx, GUEST)
        add_project(tx, STRANGER)
        models.register(
            tx,
            name=NAME,
            project_id=OWNER,
            job_id=add_job(tx),
            base="base",
            adapter_id="adapter-0001",
            state=ModelState.READY,
        )
        permissions.grant(tx, OWNER, NAME, [GUEST])
    return any_database


def seen(database: Database) -> list[str]:
    """The projects that may use the model; listing and looking up must agree."""
    with database.read() as tx:
        listing = [one for one in (OWNER, GUEST, STRANGER) if [m.id for m in models.list_ready(tx, one)] == [NAME]]
        for one in (OWNER, GUEST, STRANGER):
            if one in listing:
                assert models.get(tx, one, NAME).project_id == OWNER
            else:
                with pytest.raises(ModelNotFound):
                    models.get(tx, one, NAME)
    return listing


def test_the_owner_and_its_guests_see_the_model_until_it_is_revoked(shared: Database):
    assert seen(shared) == [OWNER, GUEST]
    with shared.transaction() as tx:
        (permission,) = permissions.grant(tx, OWNER, NAME, [GUEST])
        with pytest.raises(NotFound):
            permissions.revoke(tx, OWNER, NAME, "cp_other")
        permissions.revoke(tx, OWNER, NAME, permission.id)
    assert seen(shared) == [OWNER]


def test_deleting_ends_it_for_everybody_and_only_the_owner_may(shared: Database):
    with shared.transaction() as tx:
        with pytest.raises(PermissionDenied):
            models.delete(tx, GUEST, NAME)
        with pytest.raises(ModelNotFound):
            models.delete(tx, STRANGER, NAME)
    assert seen(shared) == [OWNER, GUEST]
    with shared.transaction() as tx:
        models.delete(tx, OWNER, NAME)
    assert seen(shared) == []


@pytest.mark.parametrize("project", [GUEST, STRANGER])
def test_only_the_owner_manages_permissions(shared: Database, project: str):
    with shared.transaction() as tx:
        with pytest.raises(ModelNotFound):
            permissions.grant(tx, project, NAME, [STRANGER])
        with pytest.raises(ModelNotFound):
            permissions.list_page(tx, project, NAME, guest=None, limit=9, after=None, order="desc")
        with pytest.raises(ModelNotFound):
            permissions.revoke(tx, project, NAME, "cp_x")


def test_all_projects_must_exist_or_none_is_let_in(shared: Database):
    with shared.transaction() as tx:
        with pytest.raises(InvalidValue) as refused:
            permissions.grant(tx, OWNER, NAME, [STRANGER, "proj_nobody"])
        assert refused.value.param == "project_ids[1]"
    assert seen(shared) == [OWNER, GUEST]
