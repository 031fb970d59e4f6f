"""Plain values that the processes agree on: statuses, records, checks. No I/O, nothing about HTTP or torch.

Records are frozen and mirror the rows of `rootstock.tables`; times are float Unix seconds (the wire rounds them down).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")


class JobStatus(StrEnum):
    """A job's place in its life. `rootstock.jobs.MOVES` is the table of allowed moves."""

    VALIDATING_FILES = "validating_files"  # created; the files' recorded checks have not been judged yet
    QUEUED = "queued"  # may be claimed by a trainer
    RUNNING = "running"  # leased by exactly one trainer
    PAUSED = "paused"  # its owner asked it to rest; no worker has it
    FINALIZING = "finalizing"  # adapter stored; waits until it answers through serving (on the wire: running)
    SUCCEEDED = "succeeded"  # the tuned model answers
    FAILED = "failed"  # ended with an error that the job names
    CANCELLED = "cancelled"  # ended by the user

    @property
    def terminal(self) -> bool:
        """Whether no move leads out of this status."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)

    @property
    def wire(self) -> str:
        """The status as the API shows it: strict clients know six values, so `finalizing` reads `running`.

        `paused` is a seventh, which nobody sees who does not pause. Of a job, show `JobRecord.shown_status`.
        """
        return "running" if self is JobStatus.FINALIZING else str(self)


class BatchStatus(StrEnum):
    """A batch's place in its life. `rootstock.batches.MOVES` is the table of allowed moves."""

    VALIDATING = "validating"  # created; its lines have not been read yet
    IN_PROGRESS = "in_progress"  # its lines are put to the model
    FINALIZING = "finalizing"  # all are answered, or the time is over; the files are being written
    CANCELLING = "cancelling"  # the owner wants no more; the files are being written
    COMPLETED = "completed"  # every line has its answer or its error
    EXPIRED = "expired"  # the time was over before every line had been put to the model
    CANCELLED = "cancelled"  # ended by the user, with what was answered until then
    FAILED = "failed"  # the input cannot be run at all

    @property
    def terminal(self) -> bool:
        """Whether no move leads out of this status."""
        return self in (BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED, BatchStatus.FAILED)


class ModelState(StrEnum):
    """Whether a registered model may be called."""

    VERIFYING = "verifying"  # stored, not yet seen answering
    READY = "ready"  # callable
    DELETED = "deleted"  # refused for ever; the name and the adapter id are never used again


TRAINABLE_METHODS = ("supervised", "dpo", "reinforcement")
"""The methods that the trainer can run. The API accepts every method's shape and refuses to create what is not here."""


ADAPTER_TYPES = ("lora", "qlora", "full")
"""What may be trained: adapters on the base as it is, adapters on the base in four bits, all weights."""


class DataFormat(StrEnum):
    """What the lines of a training file look like (contract section 4)."""

    CHAT = "fine-tune-chat"
    COMPLETIONS = "fine-tune-completions"
    PREFERENCE = "fine-tune-preference"
    PROMPTS = "fine-tune-prompts"  # of reinforcement: what is asked, and what graders compare the answer with


FileRole = Literal["training", "validation", "replay"]
"""What a job uses a file for; `replay`: general examples that are mixed into its own."""


@dataclass(frozen=True, slots=True)
class DataFault:
    """One fault of a training file. `line` is 1-based; `code` and `message` are those of contract 3.6."""

    line: int
    code: str  # invalid_training_file | invalid_file_format
    message: str  # the reason only, e.g. "Invalid file format. Example 3, message 2 ..."


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What streaming through a JSONL file found; stored with the file so that nothing is parsed twice."""

    format: DataFormat | None  # None: no line could be read as any format
    examples: int  # lines that are valid examples
    faults: tuple[DataFault, ...] = ()  # the first 100
    faults_total: int = 0


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A row of `files`."""

    seq: int
    id: str
    project_id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str  # empty until the content was inspected
    object_key: str
    status: str  # uploaded (to be inspected) | processed | error (its content is lost)
    status_details: str | None
    check: dict[str, Any] | None  # DataCheck as JSON, for purpose fine-tune
    created_at: float
    expires_at: float | None
    deleted_at: float | None
    purged_at: float | None


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """A row of `uploads`: a file that is still being put together from parts, or once was."""

    seq: int
    id: str
    project_id: str
    filename: str
    purpose: str
    mime_type: str
    bytes: int  # as declared; what the parts must add up to
    status: str  # pending | completed | cancelled | expired
    file_id: str | None
    file_expires_after: int | None
    created_at: float
    expires_at: float
    completed_by: str | None
    inspect_after: float | None
    purged_at: float | None


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A row of `upload_parts`: one stored piece of an upload."""

    seq: int
    id: str
    upload_id: str
    bytes: int
    object_key: str
    created_at: float


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A row of `jobs`: the truth about a fine-tuning job."""

    seq: int
    id: str
    project_id: str
    status: JobStatus
    want: str  # run | pause | resume | cancel: what the owner asked a running job to do; its worker hears it
    fence: int  # +1 on every claim; every write of a worker carries it
    lease_owner: str | None
    lease_expires_at: float | None
    attempts: int
    not_before: float
    rung_at: float | None
    rings: int
    model: str  # public name echoed on the wire (an alias resolves to its snapshot)
    base: str  # hosted base model (public name); names the trainer queue
    training_file: str
    validation_file: str | None
    training_object: str  # snapshot of the object keys, so that deleting a file never touches a running job
    validation_object: str | None
    suffix: str | None
    seed: int
    method: dict[str, Any]  # {"type": ..., <type>: {"hyperparameters": {...}}} as asked
    hyperparameters: dict[str, Any]  # asked ("auto") until resolved, then the numbers
    integrations: list[Any]
    metadata: dict[str, str] | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    finalizing_at: float | None
    progress_step: int
    total_steps: int | None
    progress_at: float | None
    estimated_finish: float | None
    trained_tokens: int | None
    adapter_id: str | None  # the final adapter, once stored
    fine_tuned_model: str | None
    result_file: str | None
    error: dict[str, Any] | None
    start_model: str | None = None  # continued tuning: the tuned model or checkpoint that training starts from
    start_adapter: str | None = None  # its adapter, as it was when the job was created
    rootstock: dict[str, Any] | None = None  # our own additions: asked ("auto") until resolved, then the numbers
    data_report: dict[str, Any] | None = None  # findings and summary of its files, once a worker has looked

    @property
    def files(self) -> dict[FileRole, str]:
        """The files that the job reads, by what for."""
        replay = ((self.rootstock or {}).get("replay") or {}).get("file")
        named: dict[FileRole, str | None]
        named = {"training": self.training_file, "validation": self.validation_file, "replay": replay}
        return {role: file_id for role, file_id in named.items() if file_id is not None}

    @property
    def adapter_type(self) -> str:
        """What the job trains, one of `ADAPTER_TYPES`."""
        return str(((self.rootstock or {}).get("adapter") or {}).get("type") or ADAPTER_TYPES[0])

    @property
    def shown_status(self) -> str:
        """The status as the API shows it: what its owner asked for counts at once, not when the worker has done it."""
        if self.status is JobStatus.RUNNING:
            return {"pause": "paused", "resume": "queued"}.get(self.want, "running")
        return self.status.wire

    @property
    def model_kind(self) -> Literal["lora", "full"]:
        """What the job makes: a whole model when it was asked to train all weights, else an adapter."""
        asked = (self.rootstock or {}).get("adapter") or {}
        return "full" if asked.get("type") == "full" else "lora"


@dataclass(frozen=True, slots=True)
class Start:
    """The tuned model that a job goes on from."""

    model: str
    adapter: str
    snapshot: str  # what `model` says in the job that made it: results are named after the original base
    rank: int | None  # None: not known to the rows
    base: str  # that it was made on


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A row of `job_events`; `data` only for type `metrics`."""

    seq: int
    id: str
    job_id: str
    created_at: float
    level: str  # info | warn | error
    type: str  # message | metrics
    message: str
    data: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A row of `batches`: the truth about many requests that were handed in as one file."""

    seq: int
    id: str
    project_id: str
    endpoint: str  # path with /v1 that every line names
    model: str | None  # that every line names; known once they were read
    input_file: str
    input_object: str  # snapshot of the object key, so that deleting the file never touches a running batch
    completion_window: str
    output_expires_after: int | None  # seconds after the creation of the files that are written
    metadata: dict[str, str] | None
    status: BatchStatus
    fence: int  # +1 on every claim; every write of a worker carries it
    lease_owner: str | None
    lease_expires_at: float | None
    attempts: int  # claims since a result was last stored
    not_before: float
    rung_at: float | None
    rings: int
    total: int  # lines, known once they were read
    completed: int
    failed: int
    usage: dict[str, int] | None
    errors: list[dict[str, Any]] | None  # why it failed: code, message, param, line
    output_file: str | None
    error_file: str | None
    created_at: float
    expires_at: float
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one line of a batch: a finished line of the output file (`ok`) or of the error file."""

    line: int  # 1-based line of the input
    ok: bool
    body: str
    usage: dict[str, int] = field(default_factory=dict)  # tokens, by the names of `BatchRecord.usage`
    asked: bool = True  # it was put to a model; what could not be is no request of the project's usage


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A row of `job_checkpoints`: a servable adapter plus the state to resume from."""

    seq: int
    id: str
    job_id: str
    project_id: str
    created_at: float
    step_number: int
    epoch: int
    model_name: str  # ft:…:ckpt-step-N, or the final name for the last one
    adapter_id: str
    state_prefix: str | None  # where the optimizer state lies in the store; None once no longer needed
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A row of `models`: a public name bound for ever to one immutable adapter."""

    seq: int
    id: str  # ft:BASE:ORG:SUFFIX:ID[:ckpt-step-N]
    project_id: str
    job_id: str
    base: str
    adapter_id: str
    state: ModelState
    created_at: float
    deleted_at: float | None
    purged_at: float | None
    kind: str  # lora | full: a whole model, which no job starts from and which a server of its own answers for


@dataclass(frozen=True, slots=True)
class CompletionRecord:
    """A row of `stored_completions`: an answer that its client asked us to keep, with its question."""

    seq: int
    id: str  # chatcmpl-…, as in the answer
    project_id: str
    model: str  # the name that was asked for
    request_id: str
    request: dict[str, Any]
    response: dict[str, Any]
    metadata: dict[str, str] | None
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class PermissionRecord:
    """A row of `checkpoint_permissions`: another project that may use a model."""

    seq: int
    id: str
    model_name: str
    project_id: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: resolved from the API key, passed to every query so that no row is read unscoped."""

    project_id: str
    organization_id: str
    key_id: str
    role: str  # owner | member


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, in the order the API shows it."""

    data: list[T] = field(default_factory=list)
    has_more: bool = False
