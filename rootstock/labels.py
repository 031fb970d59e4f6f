"""Filtering rows by the metadata that clients attach to them. Knows nothing about what the rows are.

Metadata that never changes is kept a second time as labels, one row for each pair, so that the few rows of one
customer are found among any number of others by an index. What may change is unfolded row by row instead.
"""

import hashlib
import json
from collections.abc import Mapping

import sqlalchemy as sa

from rootstock.db import Tx

COUNTED = 1000
"""How far the rows of a label are counted to find the rarest one."""


def attach(tx: Tx, labels: sa.Table, project_id: str, seq: int, pairs: Mapping[str, str]) -> None:
    """Write the labels of a new row; a row without metadata gets one that says so."""
    tx.execute(labels.insert(), rows(project_id, seq, pairs))


def rows(project_id: str, seq: int, pairs: Mapping[str, str]) -> list[dict[str, str | int]]:
    """The labels of one row, as they are inserted."""
    return [{"label": label, "seq": seq} for label in _labels(project_id, pairs, without=not pairs)]


def carried(tx: Tx, labels: sa.Table, project_id: str, pairs: Mapping[str, str], *, without: bool) -> list[str]:
    """The labels in `labels` that a row with all of `pairs` has, the rarest first.

    `without` adds the one of rows that have no metadata.
    """
    wanted = _labels(project_id, pairs, without=without)
    if len(wanted) > 1:
        wanted.sort(key=lambda label: _count(tx, labels, label))
    return wanted


def also(labels: sa.Table, label: str, seq: sa.Column[int]) -> sa.ColumnElement[bool]:
    """That the row with this `seq` has one more of the labels of `carried`."""
    other = labels.alias()
    return sa.select(1).select_from(other).where(other.c.label == label, other.c.seq == seq).exists()


def carrying(tx: Tx, column: sa.Column[dict[str, str]], pairs: Mapping[str, str]) -> list[sa.ColumnElement[bool]]:
    """The conditions that a row's metadata holds all of `pairs`."""
    # Unfolding the object instead of a JSON path: a path would have to quote keys, and the two databases differ there.
    unfold = sa.func.json_each if tx.dialect.name == "sqlite" else sa.func.json_each_text
    conditions: list[sa.ColumnElement[bool]] = []
    for key, value in pairs.items():
        pair = unfold(column).table_valued("key", "value")
        conditions.append(sa.select(1).select_from(pair).where(pair.c.key == key, pair.c.value == value).exists())
    return conditions


def _labels(project_id: str, pairs: Mapping[str, str], *, without: bool) -> list[str]:
    # A digest, because keys and values are long and an index over all of both would hardly fit a page.
    named: list[list[str]] = [[project_id, key, value] for key, value in pairs.items()]
    named += [[project_id]] if without else []
    return [hashlib.sha256(json.dumps(parts).encode()).hexdigest() for parts in named]


def _count(tx: Tx, labels: sa.Table, label: str) -> int:
    some = sa.select(labels.c.seq).where(labels.c.label == label).limit(COUNTED).subquery()
    return tx.scalar(sa.select(sa.func.count()).select_from(some)) or 0
