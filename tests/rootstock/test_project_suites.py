"""Suites of projects: what a file may hold, and the rows on both databases, one project's and no other's."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from rootstock import keys, project_suites, tables
from rootstock.db import Database
from rootstock.errors import Conflict, InvalidValue, NotFound
from rootstock.project_suites import MOST, SuiteRecord
from rootstock.records import Caller
from rootstock.release.suites import Question, Suite
from tests.rootstock import making

SUM = Question(({"role": "user", "content": "2 + 2?"},), "4", "exact")


def line(**changes: Any) -> str:
    return json.dumps({"messages": list(SUM.messages), "answer": "4", "how": "exact"} | changes)


def parse(*lines: str) -> Suite:
    return project_suites.parse("tone", "file-x", ["\n".join(lines).encode("utf-8", "surrogatepass")])


def create(database: Database, name: str, project_id: str = "proj_a", count: int = 1) -> SuiteRecord:
    with database.transaction() as tx:
        caller = Caller(making.project(tx, project_id), "acme", "key_1", keys.OWNER)
        return project_suites.create(tx, caller, Suite(name, (SUM,) * count), folder=None)


def rows(database: Database) -> list[int]:
    with database.read() as tx:
        return [len(tx.execute(table.select()).all()) for table in (tables.suites, tables.suite_questions)]


def test_what_can_be_asked_and_judged_is_a_suite_up_to_the_bounds():
    long = [{"role": "user", "content": "x" * 8000}]
    found = parse(*[line()] * 999, "", line(messages=long, answer="4" * 200, how="contains"))
    assert found.name == "tone" and len(found.questions) == 1000 and found.questions[0] == SUM
    assert parse(line(messages=[{"role": "user", "content": "a\u2028b"}]).replace("\\u2028", "\u2028")).questions


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (line(how="regex", answer="(a+)+$"), "'how' is one of exact, contains, json, not 'regex'"),
        (line(how="regex", answer="("), "'how' is one of exact, contains, json"),
        (line(answer="4" * 201), "at most 200 characters"),
        (line(messages=[{"role": "user", "content": "x" * 8001}]), "8,000 characters"),
        (line(messages=[{"role": "user", "content": "x"}] * 33), "at most 32 messages"),
        (line(answer="a\0"), "NUL"),
        (line(messages=[{"role": "user", "content": "\ud800"}]), "lone surrogate"),
        (line(how="json", answer="{"), "no valid json"),
        ("[" * 100_000, "is not JSON"),
        (line(limit=0.1), "the keys messages, answer and how"),
    ],
)
def test_a_mistake_is_told_with_its_line(written: str, told: str):
    with pytest.raises(InvalidValue) as caught:
        parse(line(), "", written)
    assert caught.value.message.startswith("'file-x', line 3: ") and told in caught.value.message
    assert caught.value.param == "file_id"


def test_too_many_questions_none_and_other_encodings_are_refused():
    with pytest.raises(InvalidValue, match="line 1001: a suite has at most 1,000 questions"):
        parse(*[line()] * 1001)
    with pytest.raises(InvalidValue, match="holds no question"):
        parse("", " ")
    with pytest.raises(InvalidValue, match="not UTF-8"):
        project_suites.parse("tone", "file-x", [b"\xff\xfe"])


def test_a_suite_is_kept_whole_and_is_its_projects_own(any_database: Database):
    made = create(any_database, "tone", count=3)
    create(any_database, "tone", "proj_b")
    with any_database.read() as tx:
        assert project_suites.get(tx, "proj_a", made.id) == made and made.questions == 3
        assert project_suites.read(tx, "proj_a") == (Suite("tone", (SUM,) * 3),)
        assert [one.id for one in project_suites.list_page(tx, "proj_a", limit=9, after=None).data] == [made.id]
        with pytest.raises(NotFound):
            project_suites.get(tx, "proj_b", made.id)
    with any_database.transaction() as tx, pytest.raises(NotFound):
        project_suites.delete(tx, "proj_b", made.id)
    with any_database.transaction() as tx:
        project_suites.delete(tx, "proj_a", made.id)
        assert project_suites.read(tx, "proj_a") == ()
    assert rows(any_database) == [1, 1]


def test_names_are_there_once_even_when_made_at_once(any_database: Database):
    create(any_database, "first")
    together, refused = threading.Barrier(3), []

    def make() -> None:
        together.wait()
        try:
            create(any_database, "same")
        except Conflict as error:
            refused.append(error.code)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["suite_exists"] * 2 and rows(any_database) == [2, 2]


def test_a_project_has_so_many_and_no_more(any_database: Database):
    for number in range(MOST):
        create(any_database, f"suite-{number}")
    with pytest.raises(InvalidValue, match="20 suites already"):
        create(any_database, "one-more")
    create(any_database, "another-projects", "proj_b")


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 65, "é", "formats", "billing"])
def test_names_of_other_suites_and_no_names_at_all_are_refused(tmp_path: Path, name: str):
    (tmp_path / "billing.jsonl").write_text("not even a suite", "utf-8")
    with pytest.raises(InvalidValue) as caught:
        project_suites.check_name(name, tmp_path)
    assert caught.value.param == "name"
    project_suites.check_name("x" * 64, tmp_path)
