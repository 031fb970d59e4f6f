"""`/v1/webhook_endpoints`, also as `/v1/rootstock/webhooks`: where a project hears of its events. For owners only.

The first path is the newest official SDKs' (`client.webhooks.create`). Sending is `service.hooks`.
"""

import time
from typing import Annotated, Literal

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from rootstock import deliveries, ids, webhooks
from rootstock.errors import InvalidRequest, InvalidValue
from rootstock.webhooks import EndpointRecord
from service.deps import CallerDep, Parts, PartsDep, body_schema, json_body, owner
from service.hooks import attempt
from service.outbound import networks, refusal
from service.query import Limit
from service.wire import Deleted, ErrorBody
from service.wire_hooks import (
    CreateEndpoint,
    DeliveryPage,
    Endpoint,
    EndpointPage,
    EndpointTest,
    EndpointWithSecret,
    EventTypes,
    RotateSecret,
    TestEndpoint,
    UpdateEndpoint,
)

router = APIRouter(
    tags=["webhooks"],
    dependencies=[owner("api.webhooks.manage")],
    responses={403: {"model": ErrorBody, "description": "The key's role may not do this."}},
)


types = APIRouter(prefix="/v1/webhook_event_types", tags=["webhooks"])


@types.get("")
def list_event_types(_: CallerDep) -> EventTypes:
    """What endpoints may ask for."""
    return EventTypes(object="list", data=list(webhooks.EVENT_TYPES))


@router.post("", openapi_extra=body_schema(CreateEndpoint))
def create_endpoint(
    body: Annotated[CreateEndpoint, json_body(CreateEndpoint)], parts: PartsDep, caller: CallerDep
) -> EndpointWithSecret:
    """Send the project's events to a URL from now on. The answer alone holds the signing secret."""
    _check(parts, body.url)
    with parts.db.transaction() as tx:
        made = webhooks.create(tx, caller.project_id, url=body.url, name=body.name, event_types=body.event_types)
    return EndpointWithSecret.of(made, signing_secret=made.secret)


@router.get("")
def list_endpoints(
    parts: PartsDep,
    caller: CallerDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> EndpointPage:
    """The project's endpoints, newest first."""
    with parts.db.read() as tx:
        return EndpointPage.of(webhooks.list_page(tx, caller.project_id, limit=limit, after=after, order=order))


@router.get("/{webhook_endpoint_id}")
def retrieve_endpoint(webhook_endpoint_id: str, parts: PartsDep, caller: CallerDep) -> Endpoint:
    """One endpoint."""
    return Endpoint.of(_endpoint(parts, caller.project_id, webhook_endpoint_id))


@router.post("/{webhook_endpoint_id}", openapi_extra=body_schema(UpdateEndpoint))
def update_endpoint(
    webhook_endpoint_id: str,
    body: Annotated[UpdateEndpoint, json_body(UpdateEndpoint)],
    parts: PartsDep,
    caller: CallerDep,
) -> Endpoint:
    """Change where or what is sent, from the next event on."""
    if body.url is not None:
        _check(parts, body.url)
    with parts.db.transaction() as tx:
        changed = webhooks.change(tx, caller.project_id, webhook_endpoint_id, **body.model_dump(exclude_none=True))
    return Endpoint.of(changed)


@router.post("/{webhook_endpoint_id}/rotate_secret", openapi_extra=body_schema(RotateSecret))
def rotate_secret(
    webhook_endpoint_id: str,
    body: Annotated[RotateSecret, json_body(RotateSecret)],  # checked, and says nothing more
    parts: PartsDep,
    caller: CallerDep,
) -> EndpointWithSecret:
    """Sign with a new secret from now on; retries too. The answer alone holds it."""
    with parts.db.transaction() as tx:
        changed = webhooks.rotate_secret(tx, caller.project_id, webhook_endpoint_id)
    return EndpointWithSecret.of(changed, signing_secret=changed.secret)


@router.delete("/{webhook_endpoint_id}")
def delete_endpoint(webhook_endpoint_id: str, parts: PartsDep, caller: CallerDep) -> Deleted:
    """Send nothing there any more."""
    with parts.db.transaction() as tx:
        webhooks.delete(tx, caller.project_id, webhook_endpoint_id)
    return Deleted(id=webhook_endpoint_id, object="webhook_endpoint.deleted", deleted=True)


@router.get("/{webhook_endpoint_id}/deliveries")
def list_deliveries(
    webhook_endpoint_id: str, parts: PartsDep, caller: CallerDep, limit: Limit = 20, after: str | None = None
) -> DeliveryPage:
    """What was or will be sent there, newest first, with how the last attempt went."""
    with parts.db.read() as tx:
        page = webhooks.list_deliveries(tx, caller.project_id, webhook_endpoint_id, limit=limit, after=after)
    return DeliveryPage.of(page)


@router.post("/{webhook_endpoint_id}/test", openapi_extra=body_schema(TestEndpoint))
async def test_endpoint(
    webhook_endpoint_id: str,
    body: Annotated[TestEndpoint, json_body(TestEndpoint)],
    parts: PartsDep,
    caller: CallerDep,
) -> EndpointTest:
    """Send one made-up event there now, signed like a real one; `status_code` is what the endpoint answered."""
    endpoint = await run_in_threadpool(_endpoint, parts, caller.project_id, webhook_endpoint_id)
    event = deliveries.event_body(ids.new("evt_"), body.event_type, "test", time.time())
    status, error = await attempt(parts.outbound, endpoint.url, endpoint.secret, ids.new("wh_"), event)
    if status is None:
        raise InvalidRequest(f"The test event could not be delivered: {error}", code="webhook_undeliverable")
    return EndpointTest(
        object="webhook_endpoint.test",
        webhook_endpoint_id=endpoint.id,
        event_type=body.event_type,
        status_code=status,
        success=True,
    )


def _check(parts: Parts, url: str) -> None:
    reason = refusal(url, networks(parts.settings.webhook_allowed_networks))
    if reason is not None:
        raise InvalidValue(f"Invalid 'url': {reason}.", param="url")


def _endpoint(parts: Parts, project_id: str, endpoint_id: str) -> EndpointRecord:
    with parts.db.read() as tx:
        return webhooks.get(tx, project_id, endpoint_id)
