"""The database as the command line needs it: the first start, and one sentence when it cannot be reached."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from rootstock import keys
from rootstock.db import Database
from rootstock.errors import ConfigurationError, InvalidApiKey
from rootstock.settings import Settings


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The settings' database. Raises `ConfigurationError` when it is away or its schema is not this version's."""
    with _connected(settings) as database:
        database.wait_until_migrated(timeout_seconds=0)
        yield database


def prepare(settings: Settings) -> list[str]:
    """Bring the schema up to date and make sure that `DATA_DIR/api-key` holds a key that works; says what it did."""
    path = settings.data_dir / "api-key"
    with _connected(settings) as database:
        database.migrate()
        with database.transaction() as tx:
            project = keys.ensure_default_project(tx, settings.organization)
            try:
                keys.authenticate(tx, path.read_text(encoding="utf-8").strip())
                return []
            except (FileNotFoundError, InvalidApiKey):
                others = any(key.revoked_at is None for key in keys.list_all(tx, project))
                _write_private(path, keys.create(tx, project, "rootstock up") + "\n")
    why = " (no key that works was in it; other keys stay valid)" if others else ""
    return [f"wrote a new API key to {path}{why}"]


@contextlib.contextmanager
def _connected(settings: Settings) -> Iterator[Database]:
    try:
        database = Database(settings.effective_database_url)
        try:
            yield database
        finally:
            database.close()
    except (sa.exc.SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ConfigurationError(f"The database cannot be used: {reason}. Check ROOTSTOCK_DATABASE_URL.") from error


def _write_private(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.replace(path)
