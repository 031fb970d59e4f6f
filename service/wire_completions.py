"""Bodies of stored chat completions. Knows no HTTP and no database."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, model_validator

from rootstock.records import CompletionRecord, Page
from service.wire import RequestModel, ResponseModel, ends
from service.wire_values import Metadata


class UpdateCompletion(RequestModel):
    """The body of `POST /v1/chat/completions/{id}`: only the metadata may change."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"reviewed": "yes"}}]})

    metadata: Metadata | None

    @model_validator(mode="before")
    @classmethod
    def _drop_absent(cls, data: Any) -> Any:
        return data  # here null and {} do mean something: no metadata any more


class StoredCompletion(ResponseModel):
    """An answer, with what it was asked with."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None
    system_fingerprint: str | None
    service_tier: str | None
    request_id: str
    tool_choice: Any
    seed: int | None
    top_p: float
    temperature: float
    presence_penalty: float
    frequency_penalty: float
    input_user: str | None
    tools: list[dict[str, Any]] | None
    metadata: dict[str, str]
    response_format: dict[str, Any] | None

    @classmethod
    def of(cls, record: CompletionRecord) -> Self:
        """The wire form of a row. What the request left out shows the API's defaults."""
        asked, said = record.request, record.response
        user = asked.get("user")
        return cls.model_validate(
            {
                "id": record.id,
                "object": "chat.completion",
                "created": said["created"],
                "model": record.model,
                "choices": said["choices"],
                "usage": said.get("usage"),
                "system_fingerprint": said.get("system_fingerprint"),
                "service_tier": said.get("service_tier"),
                "request_id": record.request_id,
                "tool_choice": asked.get("tool_choice"),
                "seed": asked.get("seed"),
                "top_p": asked.get("top_p", 1.0),
                "temperature": asked.get("temperature", 1.0),
                "presence_penalty": asked.get("presence_penalty", 0.0),
                "frequency_penalty": asked.get("frequency_penalty", 0.0),
                "input_user": user if isinstance(user, str) else None,
                "tools": asked.get("tools"),
                "metadata": record.metadata or {},
                "response_format": asked.get("response_format"),
            }
        )


class CompletionPage(ResponseModel):
    """A page of stored completions."""

    object: Literal["list"]
    data: list[StoredCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[CompletionRecord]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [StoredCompletion.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


class StoredMessage(ResponseModel):
    """A message that was sent to the model. `content` is its text, `content_parts` its parts where it came in parts."""

    id: str
    role: str
    content: str | None
    name: str | None
    content_parts: list[dict[str, Any]] | None
    refusal: str | None
    tool_calls: list[dict[str, Any]] | None
    tool_call_id: str | None

    @classmethod
    def all_of(cls, record: CompletionRecord) -> list[Self]:
        """The messages of a stored completion, in the order of the conversation."""
        return [cls._of(f"{record.id}-{number}", message) for number, message in enumerate(record.request["messages"])]

    @classmethod
    def _of(cls, message_id: str, message: dict[str, Any]) -> Self:
        content = message.get("content")
        refusal = message.get("refusal")
        return cls(
            id=message_id,
            role=message["role"],
            content=content if isinstance(content, str) else None,
            name=message.get("name"),
            content_parts=content if isinstance(content, list) else None,
            refusal=refusal if isinstance(refusal, str) else None,
            tool_calls=message.get("tool_calls"),
            tool_call_id=message.get("tool_call_id"),
        )


class MessagePage(ResponseModel):
    """A page of messages."""

    object: Literal["list"]
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool
