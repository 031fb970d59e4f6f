"""The webhook outbox from the sender's side: what is due, who sends it, what it says, when it is tried again.

Any number of processes may work on it: a claim is a compare-and-set on the number of attempts, and holds for a lease.
Knows nothing about HTTP connections.
"""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from rootstock import db, tables
from rootstock.db import Tx

LEASE_SECONDS = 60.0
"""After this long a sender that died is not waited for; longer than one attempt can take."""

FIRST_RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 6 * 3600.0
GIVE_UP_SECONDS = 72 * 3600.0

KEPT_SECONDS = 30 * 86400.0
"""How long a delivery that has ended can be looked up."""

AT_ONCE = 64
PER_ENDPOINT = 4
"""Attempts of one round, in all and at one endpoint: a slow one may not hold up everybody else's events."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at one delivery, which the claiming process alone may make."""

    id: str
    attempt: int  # 1 for the first
    url: str
    secret: str
    event_id: str
    event_type: str
    resource_id: str
    created_at: float

    def body(self) -> bytes:
        """The JSON to send: the same bytes on every attempt."""
        return event_body(self.event_id, self.event_type, self.resource_id, self.created_at)


def event_body(event_id: str, event_type: str, resource_id: str, created_at: float) -> bytes:
    """An event as JSON."""
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(created_at),
        "type": event_type,
        "data": {"id": resource_id},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def signed(secret: str, message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The Standard Webhooks headers for exactly these bytes; `timestamp` in Unix seconds.

    Receivers refuse a timestamp that is five minutes off, so every attempt is signed anew.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def claim_due(tx: Tx) -> list[Claim]:
    """Deliveries whose time has come, now this process' for `LEASE_SECONDS`; never one that another one holds."""
    deliveries, endpoints = tables.webhook_deliveries, tables.webhook_endpoints
    place = sa.func.row_number().over(
        partition_by=deliveries.c.endpoint_id, order_by=(deliveries.c.next_attempt_at, deliveries.c.seq)
    )
    due = (
        sa.select(deliveries, endpoints.c.url, endpoints.c.secret, place.label("place"))
        .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
        .where(
            deliveries.c.status == "pending",
            deliveries.c.next_attempt_at <= db.now(),
            endpoints.c.deleted_at.is_(None),
        )
    ).subquery()
    query = sa.select(due).where(due.c.place <= PER_ENDPOINT).order_by(due.c.place, due.c.next_attempt_at)
    claimed = []
    for row in tx.execute(query.limit(AT_ONCE)).all():
        mine = tx.execute(
            deliveries.update()
            .where(*_held(row.id, row.attempts))
            .values(attempts=row.attempts + 1, next_attempt_at=db.now() + LEASE_SECONDS)
        )
        if mine.rowcount == 1:
            claimed.append(
                Claim(
                    id=row.id,
                    attempt=row.attempts + 1,
                    url=row.url,
                    secret=row.secret,
                    event_id=row.event_id,
                    event_type=row.event_type,
                    resource_id=row.resource_id,
                    created_at=row.created_at,
                )
            )
    return claimed


def settle(tx: Tx, claim: Claim, *, status_code: int | None, error: str | None) -> str | None:
    """Note how the attempt went: any 2xx delivers; everything else is tried again, in the end given up.

    Returns `delivered`, `pending` or `failed`; `None` when the delivery is somebody else's by now.
    """
    values: dict[str, object] = {"last_status_code": status_code, "last_error": error}
    if status_code is not None and 200 <= status_code < 300:
        values |= {"status": "delivered", "delivered_at": db.now(), "last_error": None}
    else:
        seconds = retry_seconds(claim.attempt)
        late = db.now() + seconds > claim.created_at + GIVE_UP_SECONDS
        values |= {
            "status": sa.case((late, "failed"), else_="pending"),
            "next_attempt_at": db.now() + seconds,
        }
    row = tx.execute(
        tables.webhook_deliveries.update()
        .where(*_held(claim.id, claim.attempt))
        .values(**values)
        .returning(tables.webhook_deliveries.c.status)
    ).one_or_none()
    return row.status if row else None


def retry_seconds(attempt: int) -> float:
    """How long to wait after this attempt (1 is the first) failed: doubling, within a fifth, up to six hours."""
    doubled = FIRST_RETRY_SECONDS * 2.0 ** min(attempt - 1, 30)
    return min(doubled, MAX_RETRY_SECONDS) * random.uniform(0.8, 1.2)


def purge(tx: Tx, limit: int) -> int:
    """Forget deliveries that ended long ago; how many were forgotten."""
    deliveries = tables.webhook_deliveries
    old = (
        sa.select(deliveries.c.seq)
        .where(
            # What still waits after that long waits for an endpoint that was deleted while the event was queued.
            sa.or_(deliveries.c.status != "pending", deliveries.c.created_at < db.now() - KEPT_SECONDS),
            deliveries.c.next_attempt_at < db.now() - KEPT_SECONDS,
        )
        .limit(limit)
    )
    return tx.execute(deliveries.delete().where(deliveries.c.seq.in_(old))).rowcount


def _held(delivery_id: str, attempts: int) -> list[sa.ColumnElement[bool]]:
    deliveries = tables.webhook_deliveries
    return [deliveries.c.id == delivery_id, deliveries.c.status == "pending", deliveries.c.attempts == attempts]
