"""The one `transaction()` (the only commit in the code base) and the migration runner.

SQLite (WAL) and PostgreSQL behind the same SQLAlchemy Core, synchronous on purpose: on SQLite that is 3 to 8
times faster than async, on PostgreSQL there is nothing to win. Knows nothing about what the rows mean.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

from rootstock.errors import ConfigurationError, Unavailable

log = logging.getLogger(__name__)

Tx = sa.Connection
"""A connection inside an open transaction; what every function of files, jobs and models takes first."""


class now(sa.sql.functions.GenericFunction[float]):  # noqa: N801 (an SQL function, written as one)
    """The database's clock as float Unix seconds: leases must not depend on the clocks of several machines."""

    type = sa.Float()
    inherit_cache = True
    name = "rootstock_now"


@compiles(now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def insert(tx: Tx, table: sa.Table) -> Any:
    """An INSERT that can say ON CONFLICT; the two databases spell it alike, SQLAlchemy does not share it."""
    return (postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert)(table)


class Lookup:
    """A SELECT that is asked with every request: compiled once for each database, asked on the driver's own cursor.

    `Tx.execute` takes several times as long as SQLite does. Rows are the driver's tuples, so their columns must be of
    types that need no conversion: texts and numbers.
    """

    def __init__(self, statement: sa.Select[Any]) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, dict[str, Any], Sequence[str] | None]] = {}

    def all(self, connection: sa.Connection, **given: Any) -> list[tuple[Any, ...]]:
        """Every row; `given` are the statement's parameters. Ask it by `Database.ask`."""
        text, fixed, order = self._compiled.get(connection.dialect.name) or self._compile(connection.dialect)
        values = fixed | given
        with contextlib.closing(connection.connection.cursor()) as cursor:
            cursor.execute(text, values if order is None else [values[name] for name in order])
            return list(cursor.fetchall())

    def _compile(self, dialect: sa.Dialect) -> tuple[str, dict[str, Any], Sequence[str] | None]:
        compiled = self._statement.compile(dialect=dialect)
        made = (str(compiled), dict(compiled.params), compiled.positiontup)
        self._compiled[dialect.name] = made
        return made


def clock(tx: Tx) -> float:
    """What `now()` is at this moment, for sums that are done in Python."""
    return float(tx.execute(sa.select(now())).scalar_one())


class Database:
    """An engine and its one way to write.

    Example: `with database.transaction() as tx: jobs.create(tx, ...)`; committed when the block ends, rolled back
    when it raises.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.make_url(url)
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        if self.url.get_backend_name() not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"ROOTSTOCK_DATABASE_URL names {self.url.drivername!r}; use sqlite:///PATH or postgresql://…"
            )
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(self.url, hide_parameters=True, connect_args={"timeout": 30.0})
            sa.event.listen(self.engine, "connect", _sqlite_pragmas)
            sa.event.listen(self.engine, "begin", _sqlite_begin)
        else:
            self.engine = sa.create_engine(
                self.url, hide_parameters=True, pool_pre_ping=True, pool_size=10, max_overflow=20
            )

        # PostgreSQL's driver begins a transaction of its own, two more journeys, unless it is told not to.
        self._unbegun = None if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        drivers = self.engine.dialect.loaded_dbapi
        self._away: tuple[type[Exception], ...] = (
            sa.exc.OperationalError,
            sa.exc.InterfaceError,
            sa.exc.TimeoutError,  # of the pool
            drivers.OperationalError,  # of a `Lookup`
            drivers.InterfaceError,
        )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Tx]:
        """An open transaction: commits at the end of the block, rolls back if it raises.

        Raises `Unavailable` (503, retry) when the database cannot be reached, so that no caller has to know drivers.
        """
        with self._begin(self.engine) as tx:
            yield tx

    @contextlib.contextmanager
    def read(self) -> Iterator[Tx]:
        """Like `transaction` for statements that only read: on SQLite it does not wait for writers."""
        with self._begin(self.engine.execution_options(rootstock_read=True)) as tx:
            yield tx

    def ask(self, lookup: Lookup, **given: Any) -> list[tuple[Any, ...]]:
        """Every row of a `Lookup`, without a transaction: a single statement sees one state of the database anyway.

        Raises `Unavailable` as `transaction` does.
        """
        with self._reachable(), (self._unbegun or self.engine).connect() as connection:
            return lookup.all(connection, **given)

    @contextlib.contextmanager
    def _begin(self, engine: sa.Engine) -> Iterator[Tx]:
        with self._reachable(), engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except self._away as error:
            log.warning("database unavailable: %s", error)
            raise Unavailable("The database is not reachable at the moment. Please retry.") from error

    def migrate(self) -> None:
        """Bring the schema to the newest revision; safe to run by several processes at once and again and again."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                # One migrator at a time; the lock is released with the transaction, also when the process dies.
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(726553)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    def revision(self) -> str | None:
        """The schema revision found in the database, `None` if it was never migrated."""
        from alembic.runtime.migration import MigrationContext

        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def wait_until_migrated(self, timeout_seconds: float = 60.0) -> None:
        """Block until the schema is at this code's revision, so that processes may start in any order.

        Raises `ConfigurationError` after `timeout_seconds`, saying how to migrate.
        """
        deadline = time.monotonic() + timeout_seconds
        wanted = head_revision()
        while True:
            try:
                found = self.revision()
            except self._away:
                found = "unreachable"
            if found == wanted:
                return
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"The database schema is at {found or 'nothing'}, this version needs {wanted}. "
                    "Run `python -m service migrate` first."
                )
            time.sleep(0.5)

    def close(self) -> None:
        """Release every pooled connection."""
        self.engine.dispose()


def head_revision() -> str:
    """The newest migration that this code ships."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    # The driver's own implicit BEGIN is switched off so that ours can be IMMEDIATE: two writers then wait in line
    # instead of one failing half-way with "database is locked".
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get("rootstock_read", False)
    driver: Any = connection.connection.driver_connection  # SQLAlchemy's way takes longer than SQLite's
    driver.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")
