"""Webhook endpoints and events: where a project wants to hear of what, and the outbox that a change of state fills.

A delivery becomes visible with the very commit that it tells of, so nobody hears of a state that cannot be read yet.
Knows nothing about HTTP; sending is `rootstock.deliveries`' and the service's.
"""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rootstock import db, idempotency, ids, paging, tables
from rootstock.db import Tx
from rootstock.errors import InvalidRequest, NotFound
from rootstock.paging import Order
from rootstock.records import Page

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
    "rootstock.drift.alarm",
)
"""What is told of: types that the official SDKs know, and our own (`rootstock.`), which they pass on as they are."""

EVERYTHING = "*"
"""In an endpoint's list of types: all of them, those of later versions included."""

MAX_ENDPOINTS = 20
"""Of one project: each of them is a request to somebody's server for every event."""

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """A row of `webhook_endpoints`."""

    seq: int
    id: str
    project_id: str
    url: str
    name: str
    event_types: list[str]
    secret: str  # whsec_<base64>; kept readable, because every delivery is signed with it
    created_at: float
    deleted_at: float | None


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A row of `webhook_deliveries`."""

    seq: int
    id: str  # the webhook-id header: the same on every attempt
    endpoint_id: str
    project_id: str
    event_id: str
    event_type: str
    resource_id: str
    status: str  # pending | delivered | failed
    attempts: int
    next_attempt_at: float
    last_status_code: int | None
    last_error: str | None
    created_at: float
    delivered_at: float | None


def create(tx: Tx, project_id: str, *, url: str, name: str, event_types: Sequence[str]) -> EndpointRecord:
    """A new endpoint with a secret of its own.

    Raises `InvalidRequest` when the project has `MAX_ENDPOINTS` already.
    """
    endpoints = tables.webhook_endpoints
    idempotency.lock(tx, project_id)  # or two at once would both count one below the limit
    living = tx.scalar(sa.select(sa.func.count()).select_from(endpoints).where(*_living(project_id)))
    if (living or 0) >= MAX_ENDPOINTS:
        raise InvalidRequest(f"A project may have at most {MAX_ENDPOINTS} webhook endpoints; delete one first.")
    row = tx.execute(
        endpoints.insert()
        .values(
            id=ids.new("we_"),
            project_id=project_id,
            url=url,
            name=name,
            event_types=list(event_types),
            secret=_secret(),
            created_at=db.now(),
        )
        .returning(endpoints)
    ).one()
    return _endpoint(row)


def get(tx: Tx, project_id: str, endpoint_id: str) -> EndpointRecord:
    """The project's endpoint. Raises `NotFound` when it never was, was deleted, or belongs to another project."""
    row = None
    if ids.is_plain(endpoint_id):
        query = sa.select(tables.webhook_endpoints).where(
            *_living(project_id), tables.webhook_endpoints.c.id == endpoint_id
        )
        row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"No webhook endpoint found with id '{endpoint_id[:64]}'.", param="webhook_endpoint_id")
    return _endpoint(row)


def list_page(tx: Tx, project_id: str, *, limit: int, after: str | None, order: Order = "desc") -> Page[EndpointRecord]:
    """The project's endpoints. Raises `InvalidValue` (param `after`) for an unknown cursor."""
    endpoints = tables.webhook_endpoints
    return paging.page(
        tx,
        endpoints,
        [endpoints.c.project_id == project_id],
        shown=[endpoints.c.deleted_at.is_(None)],
        order=order,
        limit=limit,
        after=after,
        build=_endpoint,
    )


def change(tx: Tx, project_id: str, endpoint_id: str, **values: Any) -> EndpointRecord:
    """Set `url`, `name` or `event_types` from the next event on; what is not named stays. Raises `NotFound`."""
    endpoint = get(tx, project_id, endpoint_id)
    if not values:
        return endpoint
    endpoints = tables.webhook_endpoints
    mine = [*_living(project_id), endpoints.c.id == endpoint.id]
    row = tx.execute(endpoints.update().where(*mine).values(**values).returning(endpoints)).one_or_none()
    if row is None:  # deleted meanwhile
        return get(tx, project_id, endpoint_id)
    return _endpoint(row)


def rotate_secret(tx: Tx, project_id: str, endpoint_id: str) -> EndpointRecord:
    """Sign with a new secret from the next attempt on; the old one signs nothing any more. Raises `NotFound`."""
    return change(tx, project_id, endpoint_id, secret=_secret())


def _secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def delete(tx: Tx, project_id: str, endpoint_id: str) -> None:
    """Send nothing to the endpoint any more, what waits included. Raises `NotFound`, also on the second call."""
    endpoint = get(tx, project_id, endpoint_id)
    tx.execute(
        tables.webhook_endpoints.update()
        .where(tables.webhook_endpoints.c.id == endpoint.id)
        .values(deleted_at=db.now(), secret="")
    )
    tx.execute(
        tables.webhook_deliveries.update()
        .where(tables.webhook_deliveries.c.endpoint_id == endpoint.id, tables.webhook_deliveries.c.status == "pending")
        .values(status="failed", last_error="The endpoint was deleted.")
    )


def list_deliveries(
    tx: Tx, project_id: str, endpoint_id: str, *, limit: int, after: str | None
) -> Page[DeliveryRecord]:
    """What was or will be sent to the endpoint, newest first. Raises `NotFound`, and `InvalidValue` for the cursor."""
    get(tx, project_id, endpoint_id)
    deliveries = tables.webhook_deliveries
    return paging.page(
        tx,
        deliveries,
        [deliveries.c.project_id == project_id, deliveries.c.endpoint_id == endpoint_id],
        order="desc",
        limit=limit,
        after=after,
        build=lambda row: DeliveryRecord(**row._mapping),
    )


def emit(tx: Tx, project_id: str, event_type: str, resource_id: str) -> int:
    """Queue the event for each endpoint of the project that wants it; how many that were. Again: none.

    Call it in the transaction that changes the state. Example:
    `emit(tx, job.project_id, "fine_tuning.job.succeeded", job.id)`.
    """
    if event_type not in EVENT_TYPES:
        raise ValueError(f"{event_type!r} is not a webhook event")
    endpoints = tables.webhook_endpoints
    living = tx.execute(sa.select(endpoints.c.id, endpoints.c.event_types).where(*_living(project_id))).all()
    event_id = ids.new("evt_")
    wanted = [endpoint.id for endpoint in living if {event_type, EVERYTHING} & set(endpoint.event_types)]
    return sum(_queue(tx, endpoint_id, project_id, event_id, event_type, resource_id) for endpoint_id in wanted)


def _queue(tx: Tx, endpoint_id: str, project_id: str, event_id: str, event_type: str, resource_id: str) -> int:
    queued = tx.execute(
        db.insert(tx, tables.webhook_deliveries)
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


def _living(project_id: str) -> list[sa.ColumnElement[bool]]:
    return [tables.webhook_endpoints.c.project_id == project_id, tables.webhook_endpoints.c.deleted_at.is_(None)]


def _endpoint(row: sa.Row[Any]) -> EndpointRecord:
    return EndpointRecord(**row._mapping)
