"""Work that waits in a table for a worker: claimed under a lease and a fence, given back, found again when one dies.

For tables with the columns `fence`, `lease_owner`, `lease_expires_at`, `attempts`, `not_before`, `rung_at` and `rings`.
Every claim raises the fence, and a write with a stale one changes nothing. Knows nothing about what the work is.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import db
from rootstock.db import Tx

MAX_BACKOFF_SECONDS = 60
ROWS = 100
"""Rows that are read at once at most."""


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of one table; `living` are the statuses in which there is something to do."""

    table: sa.Table
    living: Collection[str]

    def claim(self, tx: Tx, *, worker: str, lease_seconds: float) -> sa.Row[Any] | None:
        """Take the row that has waited longest; `None`: none waits."""
        columns = self.table.c
        # SKIP LOCKED lets PostgreSQL's workers pick different rows at once; on SQLite writers are in line already.
        row_id = tx.scalar(
            sa.select(columns.id)
            .where(*self._waiting())
            .order_by(columns.not_before, columns.seq)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if row_id is None:
            return None
        return tx.execute(
            self.table.update()
            .where(columns.id == row_id, *self._waiting())
            .values(
                fence=columns.fence + 1,
                attempts=columns.attempts + 1,
                lease_owner=worker,
                lease_expires_at=db.now() + lease_seconds,
            )
            .returning(self.table)
        ).one_or_none()

    def waits(self, tx: Tx) -> bool:
        """Whether a worker that asked would get a row."""
        return tx.scalar(sa.select(self.table.c.id).where(*self._waiting()).limit(1)) is not None

    def fenced(self, tx: Tx, row_id: str, fence: int, **values: Any) -> sa.Row[Any] | None:
        """Write to a row that is still held under this fence; `None` when it is not.

        On PostgreSQL the row then stays locked until the commit.
        """
        held = [self.table.c.id == row_id, self.table.c.fence == fence, self.table.c.lease_owner.is_not(None)]
        changed = self.table.update().where(*held).values({"fence": fence} | values)
        return tx.execute(changed.returning(self.table)).one_or_none()

    def let_go(self, tx: Tx, row_id: str, fence: int, *, wait_seconds: float, silent: bool) -> sa.Row[Any] | None:
        """Give up on a worker: its row waits again, after a while. `silent`: only if its lease has run out."""
        held = [self.table.c.id == row_id, self.table.c.fence == fence, self.table.c.lease_owner.is_not(None)]
        if silent:
            held.append(self.table.c.lease_expires_at < db.now())
        free = {"lease_owner": None, "lease_expires_at": None, "rung_at": None}
        changed = self.table.update().where(*held).values(**free, not_before=db.now() + wait_seconds)
        return tx.execute(changed.returning(self.table)).one_or_none()

    def expired(self, tx: Tx) -> list[sa.Row[Any]]:
        """Rows whose worker has been silent for longer than its lease."""
        return self._oldest(tx, [self.table.c.status.in_(self.living), self.table.c.lease_expires_at < db.now()])

    def unrung(self, tx: Tx, older_than_seconds: float) -> list[sa.Row[Any]]:
        """Rows that wait and whose bell was never rung, or so long ago that it must have been lost."""
        rung = self.table.c.rung_at
        late = sa.or_(rung.is_(None), rung < db.now() - older_than_seconds)
        return self._oldest(tx, [*self._waiting(), late])

    def mark_rung(self, tx: Tx, row_id: str) -> None:
        """Note that the bell was rung just now, if the row still waits."""
        waiting = [self.table.c.id == row_id, self.table.c.lease_owner.is_(None)]
        tx.execute(self.table.update().where(*waiting).values(rung_at=db.now(), rings=self.table.c.rings + 1))

    def _waiting(self) -> list[sa.ColumnElement[bool]]:
        columns = self.table.c
        return [columns.status.in_(self.living), columns.lease_owner.is_(None), columns.not_before <= db.now()]

    def _oldest(self, tx: Tx, where: list[sa.ColumnElement[bool]]) -> list[sa.Row[Any]]:
        return list(tx.execute(sa.select(self.table).where(*where).order_by(self.table.c.seq).limit(ROWS)))


def backoff_seconds(attempts: int) -> float:
    """How long a row rests after its `attempts`-th claim came to nothing."""
    return float(min(MAX_BACKOFF_SECONDS, 2**attempts))
