"""Webhook events: which endpoint of a project hears of what, written into the outbox by whoever changes the state.

A delivery becomes visible with the very commit that it tells of, so nobody hears of a state that cannot be read yet.
Knows nothing about HTTP.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rootstock import db, ids, tables
from rootstock.db import Tx

EVENT_TYPES = (
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "eval.run.succeeded",
    "eval.run.failed",
    "eval.run.canceled",
)
"""The types that the official SDKs know."""

EVERYTHING = "*"
"""In an endpoint's list of types: all of them, those of later versions included."""


def emit(tx: Tx, project_id: str, event_type: str, resource_id: str) -> int:
    """Queue the event for each endpoint of the project that wants it; how many that were. Again: none.

    Call it in the transaction that changes the state. Example:
    `emit(tx, job.project_id, "fine_tuning.job.succeeded", job.id)`.
    """
    if event_type not in EVENT_TYPES:
        raise ValueError(f"{event_type!r} is not a webhook event")
    endpoints = tables.webhook_endpoints
    living = tx.execute(
        sa.select(endpoints.c.id, endpoints.c.event_types).where(
            endpoints.c.project_id == project_id, endpoints.c.deleted_at.is_(None)
        )
    ).all()
    event_id = ids.new("evt_")
    wanted = [endpoint.id for endpoint in living if {event_type, EVERYTHING} & set(endpoint.event_types)]
    return sum(_queue(tx, endpoint_id, project_id, event_id, event_type, resource_id) for endpoint_id in wanted)


def _queue(tx: Tx, endpoint_id: str, project_id: str, event_id: str, event_type: str, resource_id: str) -> int:
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    queued = tx.execute(
        insert(tables.webhook_deliveries)
        .values(
            id=ids.new("wh_"),
            endpoint_id=endpoint_id,
            project_id=project_id,
            event_id=event_id,
            event_type=event_type,
            resource_id=resource_id,
            status="pending",
            attempts=0,
            next_attempt_at=db.now(),
            created_at=db.now(),
        )
        .on_conflict_do_nothing()
        .returning(tables.webhook_deliveries.c.seq)
    ).all()
    return len(queued)
