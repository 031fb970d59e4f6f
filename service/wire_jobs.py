"""OpenAI-shaped bodies of fine-tuning jobs, events and checkpoints. Knows no HTTP and no database."""

import math
import time
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from rootstock.records import CheckpointRecord, EventRecord, JobRecord, JobStatus, Page
from service.wire import RequestModel, ResponseModel, ends, whole

MAX_SEED = 2**31 - 1
MAX_METADATA_PAIRS = 16
HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
NO_ERROR = {"code": None, "message": None, "param": None}


def integral(value: Any) -> Any:
    """`3.0` as `3`; anything else as it is."""
    # SDKs of untyped languages send 3.0 for 3.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _auto_or_integer(lowest: int, highest: int) -> BeforeValidator:
    def check(value: Any) -> Any:
        value = integral(value)
        if value == "auto":
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise PydanticCustomError("invalid_value", "expected 'auto' or an integer")
        if value < lowest:
            raise PydanticCustomError(
                "integer_below_min_value", f"integer below minimum value. Expected a value >= {lowest}"
            )
        if value > highest:
            raise PydanticCustomError(
                "integer_above_max_value", f"integer above maximum value. Expected a value <= {highest}"
            )
        return value

    return BeforeValidator(check)


def _auto_or_positive(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PydanticCustomError("invalid_value", "expected 'auto' or a number")
    if value <= 0:
        raise PydanticCustomError("decimal_below_min_value", "number below minimum value. Expected a value > 0")
    return float(value)


def _metadata(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_METADATA_PAIRS:
        raise PydanticCustomError(
            "object_above_max_properties", f"too many properties. Expected at most {MAX_METADATA_PAIRS}"
        )
    return value


def _printable(value: Any) -> Any:
    if isinstance(value, str) and any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value):
        raise PydanticCustomError("invalid_value", "it holds control characters")
    return value


Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    BeforeValidator(_metadata),
]


class Hyperparameters(RequestModel):
    """What supervised tuning may be told; "auto" is resolved by the trainer."""

    n_epochs: Annotated[int | Literal["auto"], _auto_or_integer(1, 50)] = "auto"
    batch_size: Annotated[int | Literal["auto"], _auto_or_integer(1, 256)] = "auto"
    learning_rate_multiplier: Annotated[float | Literal["auto"], BeforeValidator(_auto_or_positive)] = "auto"


class Supervised(RequestModel):
    """The supervised branch of `method`."""

    hyperparameters: Hyperparameters | None = None


class Method(RequestModel):
    """How to tune. Only the branch that `type` names may be filled."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: dict[str, Any] | None = None
    reinforcement: dict[str, Any] | None = None


class CreateJob(RequestModel):
    """The body of `POST /v1/fine_tuning/jobs`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "gpt-4o-mini", "training_file": "file-abc123"},
                {
                    "model": "gpt-4o-mini",
                    "training_file": "file-abc123",
                    "validation_file": "file-def456",
                    "suffix": "support",
                    "seed": 42,
                    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
                    "metadata": {"team": "search"},
                },
            ]
        }
    )

    model: Annotated[str, Field(min_length=1)]
    training_file: str
    validation_file: str | None = None
    suffix: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=64),
            BeforeValidator(_printable),
            Field(json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(integral)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[dict[str, Any]], Field(max_length=5)] | None = None
    metadata: Metadata | None = None


class JobError(ResponseModel):
    """Why a job failed; all null while it has not."""

    code: str | None
    message: str | None
    param: str | None


class ResolvedHyperparameters(ResponseModel):
    """As asked ("auto") until the files are validated and counted, then the numbers."""

    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]


class Job(ResponseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Literal["validating_files", "queued", "running", "succeeded", "failed", "cancelled"]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    hyperparameters: ResolvedHyperparameters
    method: dict[str, Any]
    trained_tokens: int | None
    error: JobError
    seed: int
    estimated_finish: int | None
    integrations: list[Any]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    usage_metrics: None
    shared_with_openai: Literal[False]
    eval_id: None

    @classmethod
    def of(cls, record: JobRecord, organization: str) -> Self:
        """The wire form of a row; what only a finished job may show is held back until then."""
        succeeded = record.status is JobStatus.SUCCEEDED
        values = {
            "id": record.id,
            "object": "fine_tuning.job",
            "created_at": int(record.created_at),
            "finished_at": whole(record.finished_at),
            "model": record.model,
            "fine_tuned_model": record.fine_tuned_model,
            "organization_id": organization,
            "status": record.status.wire,
            "training_file": record.training_file,
            "validation_file": record.validation_file,
            "result_files": [record.result_file] if succeeded and record.result_file else [],
            "hyperparameters": {name: record.hyperparameters.get(name, "auto") for name in HYPERPARAMETERS},
            "method": record.method,
            "trained_tokens": record.trained_tokens if succeeded else None,
            "error": NO_ERROR | (record.error or {}),
            "seed": record.seed,
            "estimated_finish": _estimate(record),
            "integrations": record.integrations,
            "metadata": record.metadata,
            "user_provided_suffix": record.suffix,
            "usage_metrics": None,
            "shared_with_openai": False,
            "eval_id": None,
        }
        return cls.model_validate(values)


class JobPage(ResponseModel):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[Job]
    has_more: bool


class Event(ResponseModel):
    """One line of a job's log; `data` only for type `metrics`."""

    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def of(cls, record: EventRecord) -> Self:
        """The wire form of a row."""
        return cls.model_validate(
            {
                "id": record.id,
                "object": "fine_tuning.job.event",
                "created_at": int(record.created_at),
                "level": record.level,
                "message": record.message,
                "type": record.type,
                "data": record.data,
            }
        )


class EventPage(ResponseModel):
    """A page of events, newest first."""

    object: Literal["list"]
    data: list[Event]
    has_more: bool


class Checkpoint(ResponseModel):
    """A model saved at the end of an epoch, callable like the final one. `metrics` holds what was computed there."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: dict[str, float]

    @classmethod
    def of(cls, record: CheckpointRecord) -> Self:
        """The wire form of a row."""
        return cls(
            id=record.id,
            object="fine_tuning.job.checkpoint",
            created_at=int(record.created_at),
            fine_tuning_job_id=record.job_id,
            fine_tuned_model_checkpoint=record.model_name,
            step_number=record.step_number,
            metrics=record.metrics,
        )


class CheckpointPage(ResponseModel):
    """A page of checkpoints, newest first."""

    object: Literal["list"]
    data: list[Checkpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[CheckpointRecord]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [Checkpoint.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


def _estimate(record: JobRecord) -> int | None:
    # DSPy prints the difference to now, so an estimate that has passed must not be shown.
    if record.status is not JobStatus.RUNNING or record.estimated_finish is None:
        return None
    return int(record.estimated_finish) if record.estimated_finish > time.time() else None
