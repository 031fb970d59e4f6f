"""Suites of projects: questions of their own that every tune of theirs is asked before it goes out.

What was checked is kept, so the file that it came in may be deleted. Knows no HTTP, no models, nor who is asked when.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rootstock import db, files, idempotency, ids, paging, tables
from rootstock.db import Tx
from rootstock.errors import Conflict, FileNotFound, InvalidValue, NotFound
from rootstock.paging import Order
from rootstock.records import Caller, FileRecord, Page
from rootstock.release import suites
from rootstock.release.suites import Bounds, Question, Suite

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""How a suite may be called: as a file could be."""

MOST = 20
"""Suites of one project."""

MOST_BYTES = 4 * 1024 * 1024
"""Of a suite's file."""

BOUNDS = Bounds(
    # No `regex`: Python's may take time exponential in the answer's length, and would hold up everybody's releases.
    hows=("exact", "contains", "json"),
    questions=1000,
    messages=32,
    characters=8000,
    answer_characters=200,
)

PURPOSE = "evals"

_suites, _questions = tables.suites, tables.suite_questions


@dataclass(frozen=True, slots=True)
class SuiteRecord:
    """A row of `suites`."""

    seq: int
    id: str
    project_id: str
    name: str
    questions: int
    created_at: float


def file(tx: Tx, project_id: str, file_id: str) -> FileRecord:
    """The file that a suite is to be read from. Raises `FileNotFound` and `InvalidValue`, both with param `file_id`."""
    try:
        found = files.get(tx, project_id, file_id)
    except FileNotFound as error:
        error.param = "file_id"
        raise
    if found.purpose != PURPOSE:
        raise InvalidValue(f"'{found.id}' is of purpose '{found.purpose}', not '{PURPOSE}'.", param="file_id")
    if found.bytes > MOST_BYTES:
        raise InvalidValue(f"'{found.id}' is larger than {MOST_BYTES:,} bytes; make two suites of it.", param="file_id")
    return found


def parse(name: str, file_id: str, chunks: Iterable[bytes]) -> Suite:
    """The suite in a file. Raises `InvalidValue` (param `file_id`) that names the line and what to write instead."""
    try:
        return suites.parse(name, b"".join(chunks).decode(), BOUNDS)
    except UnicodeDecodeError:
        raise InvalidValue(f"'{file_id}' is not UTF-8. Save it as UTF-8.", param="file_id") from None
    except ValueError as error:
        raise InvalidValue(f"'{file_id}', {error}", param="file_id") from None


def create(tx: Tx, caller: Caller, suite: Suite, *, folder: Path | None) -> SuiteRecord:
    """Keep a suite that `parse` has let through; releases that begin afterwards are asked it.

    Raises `InvalidValue` (param `name`) for a name that it cannot have and for one suite too many, and
    `Conflict` (`suite_exists`) where the project has one of that name.
    """
    check_name(suite.name, folder)
    idempotency.lock(tx, caller.project_id)  # or two at once would both find nothing there
    taken = _names(tx, caller.project_id)
    if suite.name in taken:
        told = f"The project has a suite named '{suite.name}' already. Choose another name, or delete that one."
        raise Conflict(told, param="name", code="suite_exists")
    if len(taken) >= MOST:
        raise InvalidValue(f"The project has {MOST} suites already, and it cannot have more.", param="name")
    values = {"id": ids.new("suite_"), "project_id": caller.project_id, "name": suite.name, "created_at": db.now()}
    row = tx.execute(_suites.insert().values(**values, questions=len(suite.questions)).returning(_suites)).one()
    kept = [{"messages": list(one.messages), "answer": one.answer, "how": one.how} for one in suite.questions]
    tx.execute(_questions.insert().values(suite_id=row.id, questions=kept))
    return _record(row)


def check_name(name: str, folder: Path | None) -> None:
    """Raise `InvalidValue` (param `name`) for what no suite of a project is called; `folder` is an operator's."""
    if not NAME.fullmatch(name):
        raise InvalidValue(
            f"'{name[:64]}' is no name of a suite: 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first.",
            param="name",
        )
    if name in suites.names(folder):
        raise InvalidValue(f"A suite named '{name}' comes with this deployment; choose another name.", param="name")


def get(tx: Tx, project_id: str, suite_id: str) -> SuiteRecord:
    """The project's suite. Raises `NotFound` when it never was, was deleted, or belongs to another project."""
    row = None
    if ids.is_plain(suite_id):
        mine = [_suites.c.project_id == project_id, _suites.c.id == suite_id]
        row = tx.execute(sa.select(_suites).where(*mine)).one_or_none()
    if row is None:
        raise NotFound(f"No suite found with id '{suite_id[:64]}'.", param="suite_id")
    return _record(row)


def list_page(tx: Tx, project_id: str, *, limit: int, after: str | None, order: Order = "desc") -> Page[SuiteRecord]:
    """The project's suites. Raises `InvalidValue` (param `after`) for an unknown cursor."""
    mine = [_suites.c.project_id == project_id]
    return paging.page(tx, _suites, mine, order=order, limit=limit, after=after, build=_record)


def read(tx: Tx, project_id: str) -> tuple[Suite, ...]:
    """All suites of the project with their questions, oldest first."""
    query = sa.select(_suites.c.name, _questions.c.questions).join(_questions, _questions.c.suite_id == _suites.c.id)
    rows = tx.execute(query.where(_suites.c.project_id == project_id).order_by(_suites.c.seq))
    return tuple(Suite(row.name, tuple(_question(kept) for kept in row.questions)) for row in rows)


def names(tx: Tx, project_id: str, folder: Path | None) -> set[str]:
    """What the suites are called that the project's tunes are asked; `folder` is an operator's."""
    return suites.names(folder) | _names(tx, project_id)


def delete(tx: Tx, project_id: str, suite_id: str) -> None:
    """Remove the suite with its questions. Raises `NotFound`, also on the second call."""
    suite = get(tx, project_id, suite_id)
    tx.execute(_questions.delete().where(_questions.c.suite_id == suite.id))
    tx.execute(_suites.delete().where(_suites.c.id == suite.id))


def _names(tx: Tx, project_id: str) -> set[str]:
    return set(tx.scalars(sa.select(_suites.c.name).where(_suites.c.project_id == project_id)))


def _question(kept: dict[str, Any]) -> Question:
    return Question(tuple(kept["messages"]), kept["answer"], kept["how"])


def _record(row: sa.Row[Any]) -> SuiteRecord:
    return SuiteRecord(**row._mapping)
