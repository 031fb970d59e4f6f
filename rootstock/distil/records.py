"""Distillations as plain values: the status, the rows, what became of an example. No I/O."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rootstock.distil.outcomes import Outcome
from rootstock.distil.prompts import Answer, Prompt
from rootstock.usage import Amounts


class Status(StrEnum):
    """A distillation's place in its life; each leads to the next, and any living one to `failed` or `cancelled`."""

    QUEUED = "queued"  # its prompts have not been read yet
    IN_PROGRESS = "in_progress"  # prompts are put to the teacher, answers are looked at
    FINALIZING = "finalizing"  # alike examples are left out, the file is being written
    COMPLETED = "completed"  # the training file is there
    FAILED = "failed"  # there is none, for the reason in `error`
    CANCELLED = "cancelled"  # ended by its owner, without a file

    @property
    def terminal(self) -> bool:
        """Whether no move leads out of this status."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Distillation:
    """A row of `distillations`."""

    seq: int
    id: str
    project_id: str
    status: Status
    fence: int  # +1 on every claim; every write of a worker carries it
    lease_owner: str | None
    lease_expires_at: float | None
    attempts: int  # claims since something was last stored
    not_before: float
    spec: dict[str, Any]  # as asked, defaults filled in; never the teacher's key
    source_object: str | None
    teacher_key: str | None = field(repr=False)
    total: int  # prompts that were drawn
    done: int  # of them, those that came to an outcome
    outcomes: dict[str, int]
    usage: dict[str, int]
    stopped_by: str | None
    error: dict[str, Any] | None
    training_file: str | None
    provenance_file: str | None
    provenance: dict[str, Any] | None
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one example. `own` are tokens of models served here, which count in the project's usage."""

    number: int
    outcome: Outcome
    answer: Answer
    tokens: Amounts  # of all questions to models, foreign teachers' included
    own: dict[str, Amounts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """A row of `distillation_examples`."""

    number: int
    prompt: Prompt
    answer: Answer | None
    outcome: str | None
