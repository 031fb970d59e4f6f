"""One creation per `Idempotency-Key`: what a key made, for 24 hours, and the lock that lets one creation in at a time.

The key is looked up and written in the transaction that creates, so there is never a thing without its key or a key
without its thing. Knows nothing about what is created, or about HTTP.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import db, tables
from rootstock.db import Tx
from rootstock.errors import IdempotencyKeyReused

KEPT_SECONDS = 24 * 3600

_LOCK_SPACE = 726554
"""Advisory locks are numbers that a whole PostgreSQL database shares; this keeps ours apart from other uses."""

_keys = tables.idempotency_keys


def lock(tx: Tx, project_id: str) -> None:
    """Wait for every other creation of this project that took the lock; held until the transaction ends.

    What is read after this call includes what they made. On SQLite the transaction itself is that lock.
    """
    if tx.dialect.name == "postgresql":
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_SPACE, sa.func.hashtext(project_id))))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to create something, under the key that came with it (or none, then nothing is remembered).

    `kind` says what is created: `job`, `file`, `upload`, `batch`. `request` is any JSON value; two requests are the
    same when theirs are equal, in whatever order their keys came.

    Example: `earlier = attempt.recall(tx)`; if it is `None`, create and `attempt.remember(tx, made.id)`.
    """

    project_id: str
    kind: str
    key: str | None
    request: Any

    def recall(self, tx: Tx) -> str | None:
        """The id of what this key made within the last 24 hours; takes the project's `lock`, so nobody is between.

        The thing may have been deleted since: then the caller answers 404, for a late retry must not bring it back.

        Raises `IdempotencyKeyReused` when the key made something else.
        """
        if self.key is None:
            return None
        lock(tx, self.project_id)
        mine = sa.and_(_keys.c.project_id == self.project_id, _keys.c.key == self.key)
        tx.execute(_keys.delete().where(mine, _expired()))
        row = tx.execute(sa.select(_keys.c.kind, _keys.c.digest, _keys.c.resource_id).where(mine)).one_or_none()
        if row is None:
            return None
        if (row.kind, row.digest) != (self.kind, self.digest):
            raise IdempotencyKeyReused(self.key)
        return str(row.resource_id)

    def remember(self, tx: Tx, resource_id: str) -> None:
        """Write down what the key has made, after `recall` found nothing in the same transaction."""
        if self.key is None:
            return
        tx.execute(
            _keys.insert().values(
                project_id=self.project_id,
                key=self.key,
                kind=self.kind,
                digest=self.digest,
                resource_id=resource_id,
                created_at=db.now(),
            )
        )

    @property
    def digest(self) -> str:
        """sha256 hex of the request."""
        canonical = json.dumps(self.request, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def forget_old(tx: Tx) -> int:
    """Drop every key whose 24 hours are over; how many there were."""
    return tx.execute(_keys.delete().where(_expired())).rowcount


def _expired() -> sa.ColumnElement[bool]:
    return _keys.c.created_at <= db.now() - KEPT_SECONDS
