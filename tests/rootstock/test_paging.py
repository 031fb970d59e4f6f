"""Pages of rows through the files table: order, cursors, limits, on both databases."""

import pytest

from rootstock import keys, paging, tables
from rootstock.db import Database, Tx
from rootstock.errors import InvalidValue


def add_files(tx: Tx, count: int, project: str = keys.DEFAULT_PROJECT) -> None:
    for n in range(count):
        tx.execute(
            tables.files.insert().values(
                id=f"file-{project}-{n}",
                project_id=project,
                filename="a",
                purpose="fine-tune",
                bytes=1,
                sha256="0",
                object_key="k",
                status="processed",
                created_at=7.0,  # equal on purpose: order must not depend on time
            )
        )


def read(tx: Tx, *, order: paging.Order = "asc", limit: int = 2, after: str | None = None) -> tuple[list[str], bool]:
    page = paging.page(
        tx,
        tables.files,
        [tables.files.c.project_id == keys.DEFAULT_PROJECT],
        shown=[tables.files.c.deleted_at.is_(None)],
        order=order,
        limit=limit,
        after=f"file-{keys.DEFAULT_PROJECT}-{after}" if after else None,
        build=lambda row: str(row.id).rsplit("-", 1)[1],
    )
    return page.data, page.has_more


@pytest.fixture
def tx(any_database: Database):  # type: ignore[no-untyped-def]
    with any_database.transaction() as tx:
        keys.ensure_default_project(tx, "org")
        add_files(tx, 5)
        yield tx


def test_pages_follow_each_other_in_both_orders_without_loss_or_repeat(tx: Tx) -> None:
    assert read(tx) == (["0", "1"], True)
    assert read(tx, after="1") == (["2", "3"], True)
    assert read(tx, after="3") == (["4"], False)
    assert read(tx, after="4") == ([], False)
    assert read(tx, order="desc") == (["4", "3"], True)
    assert read(tx, order="desc", after="3") == (["2", "1"], True)


def test_exactly_full_page_has_no_more(tx: Tx) -> None:
    assert read(tx, limit=5) == (["0", "1", "2", "3", "4"], False)


@pytest.mark.parametrize(("limit", "shown"), [(0, 1), (-3, 1), (10**9, 5)])
def test_limit_is_clamped(tx: Tx, limit: int, shown: int) -> None:
    assert len(read(tx, limit=limit)[0]) == shown


def test_a_hidden_row_is_still_a_cursor(tx: Tx) -> None:
    tx.execute(
        tables.files.update().where(tables.files.c.id == f"file-{keys.DEFAULT_PROJECT}-1").values(deleted_at=1.0)
    )
    assert read(tx, after="1") == (["2", "3"], True)


@pytest.mark.parametrize("after", ["99", "nul\0", "\ud800", " "])
def test_an_unknown_cursor_is_refused(tx: Tx, after: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(tx, after=after)
    assert caught.value.param == "after"


def test_a_row_of_another_owner_is_no_cursor(tx: Tx) -> None:
    tx.execute(tables.projects.insert().values(id="other", organization_id="o", name="n", created_at=1.0))
    add_files(tx, 1, "other")
    with pytest.raises(InvalidValue):
        paging.page(
            tx,
            tables.files,
            [tables.files.c.project_id == keys.DEFAULT_PROJECT],
            order="asc",
            limit=1,
            after="file-other-0",
            build=lambda row: row,
        )
