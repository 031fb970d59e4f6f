"""Databases for the tests of the subject: a migrated one per test, SQLite or PostgreSQL. Knows no test.

Migrating is done once per session into a template that each test copies.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa

from rootstock.db import Database

MEMORY_BYTES = 8 * 1024**3

# A loaded machine is no reason for a property to fail.
hypothesis.settings.register_profile("rootstock", deadline=None)
hypothesis.settings.load_profile("rootstock")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    template = Database(f"sqlite:///{path}")
    template.migrate()
    template.close()  # the last connection folds the WAL into the one file that is copied
    return path


@pytest.fixture
def database(tmp_path: Path, sqlite_template: Path) -> Iterator[Database]:
    """A migrated SQLite database of this test alone."""
    path = tmp_path / "rootstock.db"
    shutil.copyfile(sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture(scope="session")
def postgres_copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes migrated PostgreSQL databases: on the server of ROOTSTOCK_TEST_POSTGRES_URL, else on one of our own."""
    url, own = os.environ.get("ROOTSTOCK_TEST_POSTGRES_URL"), None
    if not url:
        pgserver = pytest.importorskip("pgserver")
        own = pgserver.get_server(_in_memory() or tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
        url = own.get_uri()
    admin_url = sa.make_url(url).set(drivername="postgresql+psycopg")
    admin = sa.create_engine(admin_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    made: list[str] = []
    if own:
        with admin.connect() as connection:  # nothing here has to survive a power cut
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")

    def make(template: str = "template0") -> str:
        made.append(f"rootstock_test_{uuid.uuid4().hex}")
        with admin.connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE {made[-1]} TEMPLATE "{template}"')
        return admin_url.set(database=made[-1]).render_as_string(hide_password=False)

    template = Database(make())
    template.migrate()
    template.close()
    migrated = made[0]
    yield lambda: make(migrated)
    if own:
        own.cleanup()
        return
    with admin.connect() as connection:
        for name in made:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _in_memory() -> Path | None:
    """A folder in memory, if there is room: a database is hundreds of files, and there are hundreds of databases."""
    place = Path("/dev/shm")
    if place.is_dir() and shutil.disk_usage(place).free > MEMORY_BYTES:
        return Path(tempfile.mkdtemp(prefix="rootstock-postgres-", dir=place))
    return None


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def any_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database of this test alone, once per back-end that we support."""
    if request.param == "sqlite":
        yield request.getfixturevalue("database")
        return
    database = Database(request.getfixturevalue("postgres_copy")())
    yield database
    database.close()
