"""OpenAI-shaped bodies of uploads in parts. Knows no HTTP and no database."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field

from rootstock import files, uploads
from rootstock.records import FileRecord, PartRecord, UploadRecord
from service.wire import File, RequestModel, ResponseModel
from service.wire_values import integral


class ExpiresAfter(RequestModel):
    """When a file goes by itself, counted from its creation."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=files.MIN_EXPIRY_SECONDS, le=files.MAX_EXPIRY_SECONDS), BeforeValidator(integral)]


class CreateUpload(RequestModel):
    """The file that is going to be uploaded in parts; `expires_after` is about that file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": 1234, "mime_type": "application/jsonl"}
            ]
        }
    )

    filename: Annotated[str, Field(min_length=1, max_length=4096)]
    purpose: Annotated[str, Field(json_schema_extra={"enum": list(files.UPLOAD_PURPOSES)})]
    bytes: Annotated[int, Field(ge=0), BeforeValidator(integral)]
    mime_type: Annotated[str, Field(min_length=1, max_length=255)]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(RequestModel):
    """The parts in the order of the file's content, and what that content must be."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"part_ids": ["part_abc123", "part_def456"]}]})

    part_ids: Annotated[list[str], Field(max_length=uploads.MAX_PARTS)]
    md5: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


class Upload(ResponseModel):
    """A file that is put together from parts; `file` once that is done."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None

    @classmethod
    def of(cls, record: UploadRecord, file: FileRecord | None = None) -> Self:
        """The wire form of a row."""
        return cls.model_validate(
            {
                "id": record.id,
                "object": "upload",
                "bytes": record.bytes,
                "created_at": int(record.created_at),
                "expires_at": int(record.expires_at),
                "filename": record.filename,
                "purpose": record.purpose,
                "status": record.status,
                "file": None if file is None else File.of(file),
            }
        )


class UploadPart(ResponseModel):
    """One stored piece."""

    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str

    @classmethod
    def of(cls, record: PartRecord) -> Self:
        """The wire form of a row."""
        return cls(id=record.id, object="upload.part", created_at=int(record.created_at), upload_id=record.upload_id)
