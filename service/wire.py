"""OpenAI-shaped bodies of files and models, and what all bodies share. Knows no HTTP and no database.

Requests may default and refuse unknown keys; responses have no defaults, so every documented key is always there.
"""

import functools
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, Tag, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rootstock.aliases import AliasRecord
from rootstock.records import FileRecord, ModelRecord, Page


class HasId(Protocol):
    """Any record with an id."""

    @property
    def id(self) -> str: ...


class RequestModel(BaseModel):
    """A JSON body as clients send it: a key that is `null` counts as absent, an unknown key is refused.

    So does `{}` where an object needs no keys: SDKs send `"hyperparameters": {}` for none at all.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        absent = _absent_values(cls)
        return {key: value for key, value in data.items() if key not in absent or value not in absent[key]}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The document says of every optional key that it may be `null`."""
        schema = handler.resolve_ref_schema(handler(core))
        for name, field in schema.get("properties", {}).items():
            if name not in schema.get("required", []) and "type" in field and field["type"] != "null":
                kind = {key: field.pop(key) for key in list(field) if key not in ("title", "default", "description")}
                field["anyOf"] = [kind, {"type": "null"}]
            elif name not in schema.get("required", []) and "anyOf" in field and {"type": "null"} not in field["anyOf"]:
                field["anyOf"] = [*field["anyOf"], {"type": "null"}]
        return schema


class Asking(RequestModel):
    """A question to a model."""

    model: str


class ResponseModel(BaseModel):
    """A JSON body as we answer it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def tag(name: str) -> Tag:
    """A union's branch. The brackets keep it out of the dotted path in an error's `param`."""
    return Tag(f"<{name}>")


class ErrorDetail(ResponseModel):
    """What went wrong; `param` is the dotted path of the offending field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Deleted(ResponseModel):
    """The answer to a DELETE."""

    id: str
    object: str
    deleted: Literal[True]


class File(ResponseModel):
    """An uploaded or produced file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None

    @classmethod
    def of(cls, record: FileRecord) -> Self:
        """The wire form of a row."""
        return cls.model_validate(
            {
                "id": record.id,
                "object": "file",
                "bytes": record.bytes,
                "created_at": int(record.created_at),
                "expires_at": whole(record.expires_at),
                "filename": record.filename,
                "purpose": record.purpose,
                "status": record.status,
                "status_details": record.status_details,
            }
        )


class FilePage(ResponseModel):
    """A page of files."""

    object: Literal["list"]
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[FileRecord]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [File.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


class Model(ResponseModel):
    """A model that may be called."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    shutdown_date: str | None

    @classmethod
    def tuned(cls, record: ModelRecord, organization: str) -> Self:
        """A fine-tuned model of the caller."""
        return cls(
            id=record.id, object="model", created=int(record.created_at), owned_by=organization, shutdown_date=None
        )

    @classmethod
    def alias(cls, record: AliasRecord, organization: str) -> Self:
        """A name that the caller's project gave to a model."""
        made = int(record.created_at)
        return cls(id=record.name, object="model", created=made, owned_by=organization, shutdown_date=None)

    @classmethod
    def hosted(cls, name: str) -> Self:
        """A base model, or an alias of it. When it was made is not ours to know."""
        return cls(id=name, object="model", created=0, owned_by="system", shutdown_date=None)


class ModelList(ResponseModel):
    """All models that the caller may call; never paged."""

    object: Literal["list"]
    data: list[Model]


@functools.cache
def _absent_values(model: type[BaseModel]) -> dict[str, tuple[Any, ...]]:
    """Key -> the values of it that mean nothing was said."""
    return {
        field.alias or name: (None, {}) if not field.is_required() and _may_be_empty(field.annotation) else (None,)
        for name, field in model.model_fields.items()
    }


def _may_be_empty(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    if kind in (Annotated, Union, UnionType):
        return any(_may_be_empty(inner) for inner in get_args(annotation))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return not any(field.is_required() for field in kind.model_fields.values())
    return kind is dict


def whole(seconds: float | None) -> int | None:
    """A time as the wire shows it: integer Unix seconds."""
    return None if seconds is None else int(seconds)


def ends(records: Sequence[HasId]) -> tuple[str | None, str | None]:
    """First and last id of a page; both `None` when it is empty."""
    return (records[0].id, records[-1].id) if records else (None, None)
