"""OpenAI-shaped bodies of batches, and the lines of their input. Knows no HTTP and no database."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, StringConstraints

from rootstock.records import BatchRecord, Page
from service.wire import RequestModel, ResponseModel, ends, whole
from service.wire_uploads import ExpiresAfter
from service.wire_values import Metadata

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]


class CreateBatch(RequestModel):
    """The body of `POST /v1/batches`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input_file_id": "file-abc123", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            ]
        }
    )

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchLine(RequestModel):
    """A line of the input file; the body is checked when its turn comes."""

    custom_id: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class BatchError(ResponseModel):
    """Why a batch failed; `line` is 1-based."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(ResponseModel):
    """All that was found, up to a hundred."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(ResponseModel):
    """Lines of a batch: all, those with an answer, those with an error."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(ResponseModel):
    """Of the prompt tokens."""

    cached_tokens: int


class OutputTokensDetails(ResponseModel):
    """Of the answers' tokens."""

    reasoning_tokens: int


class BatchUsage(ResponseModel):
    """Tokens of all answers together."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Batch(ResponseModel):
    """Many requests, handed in as one file and answered in another one."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, record: BatchRecord) -> Self:
        """The wire form of a row."""
        errors = [BatchError.model_validate(error) for error in record.errors or []]
        return cls(
            id=record.id,
            object="batch",
            endpoint=record.endpoint,
            model=record.model,
            errors=BatchErrors(object="list", data=errors) if errors else None,
            input_file_id=record.input_file,
            completion_window=record.completion_window,
            status=record.status.value,
            output_file_id=record.output_file,
            error_file_id=record.error_file,
            created_at=int(record.created_at),
            in_progress_at=whole(record.in_progress_at),
            expires_at=int(record.expires_at),
            finalizing_at=whole(record.finalizing_at),
            completed_at=whole(record.completed_at),
            failed_at=whole(record.failed_at),
            expired_at=whole(record.expired_at),
            cancelling_at=whole(record.cancelling_at),
            cancelled_at=whole(record.cancelled_at),
            request_counts=RequestCounts(total=record.total, completed=record.completed, failed=record.failed),
            usage=_usage(record.usage),
            metadata=record.metadata,
        )


class BatchPage(ResponseModel):
    """A page of batches."""

    object: Literal["list"]
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[BatchRecord]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [Batch.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


def _usage(found: dict[str, int] | None) -> BatchUsage | None:
    if found is None:
        return None
    return BatchUsage(
        input_tokens=found["input_tokens"],
        input_tokens_details=InputTokensDetails(cached_tokens=found["cached_tokens"]),
        output_tokens=found["output_tokens"],
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        total_tokens=found["total_tokens"],
    )
