"""Who asks, and which models a name may mean for them: all that a question to a model needs of the database.

It is asked with every question, so it is one statement, compiled once: on PostgreSQL each statement is a journey over
the network, and SQLAlchemy takes longer to build and to run one than SQLite does to answer it. Decides nothing: which
of the models is to answer is the gateway's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import ids, keys, models, tables
from rootstock.aliases import Target
from rootstock.db import Database, Lookup
from rootstock.errors import ModelNotFound
from rootstock.records import Caller, ModelRecord

MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name means to one project: one of its aliases, a model, or nothing."""

    alias: tuple[str, Target] | None
    """Its id, and where it points."""

    found: dict[str, tuple[ModelRecord, bool]]
    """The models that the project may call of those that the name may stand for, each with whether it is held."""

    def model(self, name: str) -> ModelRecord:
        """The model of this name. Raises `ModelNotFound` or `ModelHeld`."""
        if name not in self.found:
            raise ModelNotFound(name)
        record, held = self.found[name]
        if held:
            raise models.held(record)
        return record


def of_key(db: Database, key: str, name: str) -> tuple[Caller, Meaning]:
    """Whose key this is, and what the name means to their project.

    Raises `InvalidApiKey` as `keys.authenticate` does.
    """
    rows = db.ask(_OF_KEY, prefix=keys.prefix(key), name=_plain(name))
    return keys.verified(key, rows[0][-len(keys.COLUMNS) :] if rows else None), _meaning(rows)


def of_project(db: Database, project_id: str, name: str) -> Meaning:
    """What the name means to this project."""
    return _meaning(db.ask(_OF_PROJECT, project=project_id, name=_plain(name)))


_ALIAS = [tables.aliases.c[name] for name in ("id", "model", "canary_model", "canary_percent")]
_MODEL = list(tables.models.columns)
_MODEL_NAMES = [column.key for column in _MODEL]


def _statement(
    askers: sa.FromClause, asked: sa.ColumnElement[bool], more: Sequence[sa.ColumnElement[Any]] = ()
) -> Lookup:
    """For who is `asked` about, of `askers`: a row for each model that the name may stand for, or one without."""
    project, aliases, named, releases = tables.projects.c.id, tables.aliases, tables.models, tables.releases
    name = sa.bindparam("name", type_=sa.Text())
    so_called = (aliases.c.project_id == project) & (aliases.c.name == name) & aliases.c.deleted_at.is_(None)
    meant = named.c.id.in_([name, aliases.c.model, aliases.c.canary_model]) & models.callable_by(project)
    columns = [*_ALIAS, releases.c.job_id, *_MODEL, *more]
    return Lookup(
        sa.select(*(column.label(f"c{place}") for place, column in enumerate(columns)))  # several are called `id`
        .select_from(
            askers.outerjoin(aliases, so_called)
            .outerjoin(named, meant)
            .outerjoin(releases, (releases.c.job_id == named.c.job_id) & releases.c.held)
        )
        .where(asked)
    )


_OF_KEY = _statement(keys.LIVING, tables.api_keys.c.prefix == sa.bindparam("prefix"), keys.COLUMNS)
_OF_PROJECT = _statement(tables.projects, tables.projects.c.id == sa.bindparam("project"))


def _plain(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARS and ids.is_plain(name) else ""


def _meaning(rows: Sequence[tuple[Any, ...]]) -> Meaning:
    alias_id, *target = rows[0][: len(_ALIAS)] if rows else [None]
    found = {}
    for row in rows:
        held, *values = row[len(_ALIAS) : len(_ALIAS) + 1 + len(_MODEL)]
        if values[0] is not None:  # an outer join that found none
            record = models.from_columns(dict(zip(_MODEL_NAMES, values, strict=True)))
            found[record.id] = (record, held is not None)
    return Meaning(None if alias_id is None else (alias_id, Target(*target)), found)
