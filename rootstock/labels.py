"""Filtering rows by the metadata that clients attach to them. Knows nothing about what the rows are."""

from collections.abc import Mapping

import sqlalchemy as sa

from rootstock.db import Tx


def carrying(tx: Tx, column: sa.Column[dict[str, str]], pairs: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    """The conditions that a row's metadata holds all of `pairs`."""
    # Unfolding the object instead of a JSON path: a path would have to quote keys, and the two databases differ there.
    unfold = sa.func.json_each if tx.dialect.name == "sqlite" else sa.func.json_each_text
    conditions: list[sa.ColumnElement[bool]] = []
    for key, value in pairs.items():
        pair = unfold(column).table_valued("key", "value")
        conditions.append(sa.select(1).select_from(pair).where(pair.c.key == key, pair.c.value == value).exists())
    return conditions
