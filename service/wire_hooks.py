"""Bodies of webhook endpoints (as the newest official SDKs shape them) and of their deliveries. Knows no HTTP."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from rootstock.records import Page
from rootstock.webhooks import EVENT_TYPES, EVERYTHING, DeliveryRecord, EndpointRecord
from service.wire import RequestModel, ResponseModel, ends, whole


def _event_type(value: Any) -> Any:
    if isinstance(value, str) and value not in EVENT_TYPES:
        raise PydanticCustomError("unsupported_value", f"the supported values are {', '.join(EVENT_TYPES)}")
    return value


def _event_types(value: Any) -> Any:
    if value == [EVERYTHING]:
        return value
    if isinstance(value, list):
        kinds = [_event_type(one) for one in value]
        return list(dict.fromkeys(kinds)) if all(isinstance(one, str) for one in kinds) else kinds
    return value


_EVENT_TYPE = {"type": "string", "enum": list(EVENT_TYPES)}
_EVENT_TYPES = {"anyOf": [{"const": [EVERYTHING]}, {"type": "array", "minItems": 1, "items": _EVENT_TYPE}]}


class CreateEndpoint(RequestModel):
    """The body of `POST /v1/webhook_endpoints`. Without `event_types` (or with `["*"]`): every event."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "url": "https://example.com/hooks",
                    "name": "alerts",
                    "event_types": ["fine_tuning.job.succeeded", "fine_tuning.job.failed"],
                }
            ]
        }
    )

    url: str
    name: Annotated[str, StringConstraints(max_length=255)] = ""
    event_types: Annotated[
        list[str], Field(min_length=1), BeforeValidator(_event_types), WithJsonSchema(_EVENT_TYPES)
    ] = Field(default_factory=lambda: [EVERYTHING])


class UpdateEndpoint(RequestModel):
    """The body of `POST /v1/webhook_endpoints/{id}`: what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "alerts of the night shift"}]})

    url: str | None = None
    name: Annotated[str, StringConstraints(max_length=255)] | None = None
    event_types: (
        Annotated[list[str], Field(min_length=1), BeforeValidator(_event_types), WithJsonSchema(_EVENT_TYPES)] | None
    ) = None


class RotateSecret(RequestModel):
    """The body of `POST …/rotate_secret`. Each delivery has one signature, so the old secret ends at once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"keep_old_secret_active_for_24_hours": False}]})

    keep_old_secret_active_for_24_hours: Annotated[bool, Field(json_schema_extra={"const": False})] | None = None

    @field_validator("keep_old_secret_active_for_24_hours")
    @classmethod
    def _ends_at_once(cls, value: bool | None) -> bool | None:
        if value:
            raise PydanticCustomError("unsupported_value", "the supported value is false")
        return value


class EventTypes(ResponseModel):
    """What endpoints may ask for."""

    object: Literal["list"]
    data: list[str]


class TestEndpoint(RequestModel):
    """The body of `POST …/test`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"event_type": "fine_tuning.job.succeeded"}]})

    event_type: Annotated[str, BeforeValidator(_event_type), WithJsonSchema(_EVENT_TYPE)] = EVENT_TYPES[0]


class Endpoint(ResponseModel):
    """Where a project hears of its events."""

    id: str
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str

    @classmethod
    def of(cls, record: EndpointRecord, **more: Any) -> Self:
        """The wire form of a row."""
        return cls(
            id=record.id,
            object="webhook_endpoint",
            created_at=int(record.created_at),
            updated_at=int(record.created_at),
            name=record.name,
            url=record.url,
            event_types=record.event_types,
            signing_secret_hint=f"whsec_…{record.secret[-4:]}",
            **more,
        )


class EndpointWithSecret(Endpoint):
    """A new endpoint; the only time that its secret is shown."""

    signing_secret: str


class EndpointPage(ResponseModel):
    """A page of endpoints."""

    object: Literal["list"]
    data: list[Endpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[EndpointRecord]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [Endpoint.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


class EndpointTest(ResponseModel):
    """What the endpoint answered to a test event."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True]


class Delivery(ResponseModel):
    """One event on its way to one endpoint; `id` is what the endpoint sees as `webhook-id`."""

    id: str
    object: Literal["webhook_endpoint.delivery"]
    created_at: int
    webhook_endpoint_id: str
    event_id: str
    event_type: str
    resource_id: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: int | None
    last_status_code: int | None
    last_error: str | None
    delivered_at: int | None

    @classmethod
    def of(cls, record: DeliveryRecord) -> Self:
        """The wire form of a row."""
        return cls.model_validate(
            {
                "id": record.id,
                "object": "webhook_endpoint.delivery",
                "created_at": int(record.created_at),
                "webhook_endpoint_id": record.endpoint_id,
                "event_id": record.event_id,
                "event_type": record.event_type,
                "resource_id": record.resource_id,
                "status": record.status,
                "attempts": record.attempts,
                "next_attempt_at": whole(record.next_attempt_at) if record.status == "pending" else None,
                "last_status_code": record.last_status_code,
                "last_error": record.last_error,
                "delivered_at": whole(record.delivered_at),
            }
        )


class DeliveryPage(ResponseModel):
    """A page of deliveries."""

    object: Literal["list"]
    data: list[Delivery]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[DeliveryRecord]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [Delivery.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)
