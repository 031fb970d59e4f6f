"""OpenAI-shaped bodies of fine-tuning jobs, events and checkpoints. Knows no HTTP and no database."""

import time
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints

from rootstock.records import CheckpointRecord, EventRecord, JobRecord, JobStatus, Page
from service.wire import RequestModel, ResponseModel, ends, whole
from service.wire_extras import Extras, JobExtras
from service.wire_methods import COMMON, Hyperparameters, Method
from service.wire_values import PRINTABLE, Metadata, integral

MAX_SEED = 2**31 - 1
NO_ERROR = {"code": None, "message": None, "param": None}


WandbText = Annotated[str, StringConstraints(min_length=1, max_length=128), *PRINTABLE]
Tags = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=64), *PRINTABLE]], Field(max_length=32)]


class Wandb(RequestModel):
    """Where a job's metrics go in Weights & Biases."""

    project: Annotated[str, StringConstraints(pattern=r"^[^/\\#?%:\x00-\x1f]+$", max_length=128)]
    name: WandbText | None = None
    entity: WandbText | None = None
    tags: Tags | None = None


class Integration(RequestModel):
    """Who else follows a job."""

    type: Literal["wandb"]
    wandb: Wandb

    def of_job(self, job_id: str, model: str) -> dict[str, Any]:
        """The form that is stored, echoed and used: the run has the job's id, and tags that tell its origin."""
        asked = self.wandb
        tags = [*(asked.tags or []), "openai/finetune", f"openai/{model}", f"openai/{job_id}"]
        echo = {"project": asked.project, "entity": asked.entity, "run_id": job_id, "name": asked.name, "tags": tags}
        return {"type": self.type, "wandb": echo}


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
                    "rootstock": {"adapter": {"type": "lora", "rank": 16}, "early_stopping": {"patience": 2}},
                },
            ]
        }
    )

    model: Annotated[str, Field(min_length=1)]
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64), *PRINTABLE] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(integral)] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Metadata | None = None
    rootstock: Extras | None = None


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


class WandbRun(ResponseModel):
    """The run that a job writes."""

    project: str
    entity: str | None
    run_id: str
    name: str | None
    tags: list[str]


class JobIntegration(ResponseModel):
    """Who else follows a job."""

    type: Literal["wandb"]
    wandb: WandbRun


class Job(ResponseModel):
    """A fine-tuning job. `paused` is shown only of jobs that their owner paused."""

    id: str
    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    hyperparameters: ResolvedHyperparameters
    method: dict[str, Any]
    trained_tokens: int | None
    error: JobError
    seed: int
    estimated_finish: int | None
    integrations: list[JobIntegration]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None
    usage_metrics: None
    shared_with_openai: Literal[False]
    eval_id: None
    rootstock: JobExtras

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
            "status": record.shown_status,
            "training_file": record.training_file,
            "validation_file": record.validation_file,
            "result_files": [record.result_file] if succeeded and record.result_file else [],
            "hyperparameters": {name: record.hyperparameters.get(name, "auto") for name in COMMON},
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
            "rootstock": JobExtras.of(record),
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
    if record.shown_status != "running" or record.estimated_finish is None:
        return None
    return int(record.estimated_finish) if record.estimated_finish > time.time() else None
