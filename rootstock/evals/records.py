"""Plain values of evals: statuses, records, tallies. No I/O."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RunStatus(StrEnum):
    """A run's place in its life. `rootstock.evals.runs.MOVES` is the table of allowed moves."""

    QUEUED = "queued"  # created; its items have not been read yet
    IN_PROGRESS = "in_progress"  # its items are sampled and graded
    COMPLETED = "completed"  # every item has its result
    FAILED = "failed"  # the items cannot be had, or ours was the fault
    CANCELED = "canceled"  # ended by the user, with what was graded until then

    @property
    def terminal(self) -> bool:
        """Whether no move leads out of this status."""
        return self in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED)


class ItemStatus(StrEnum):
    """What became of one item."""

    PASS = "pass"  # noqa: S105 - every criterion is met
    FAIL = "fail"  # one is not
    ERROR = "error"  # no answer, or a grader that could not grade it: no result that may be counted


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """A row of `evals`."""

    seq: int
    id: str
    project_id: str
    name: str
    data_source_config: dict[str, Any]  # as the API answers it
    testing_criteria: list[dict[str, Any]]  # as the API answers them
    metadata: dict[str, str] | None
    created_at: float
    updated_at: float
    deleted_at: float | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A row of `eval_runs`: the truth about one measurement."""

    seq: int
    id: str
    project_id: str
    eval_id: str
    name: str
    model: str
    data_source: dict[str, Any]  # as the API answers it
    testing_criteria: list[dict[str, Any]]  # the eval's, when the run was made
    input_object: str | None  # where the items lie in the store, if they do
    metadata: dict[str, str] | None
    status: RunStatus
    fence: int  # +1 on every claim; every write of a worker carries it
    lease_owner: str | None
    lease_expires_at: float | None
    attempts: int  # claims since an item was last stored
    not_before: float
    rung_at: float | None
    rings: int
    total: int  # items, known once they were read
    passed: int
    failed: int
    errored: int
    tallies: dict[str, Any]  # of `Tallies`
    error: dict[str, Any] | None  # why it failed: code, message
    created_at: float
    started_at: float | None
    ended_at: float | None
    deleted_at: float | None


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """A row of `eval_items`: an output item."""

    seq: int
    id: str
    run_id: str
    number: int  # 1-based place in the source
    status: ItemStatus
    datasource_item: dict[str, Any]
    results: list[dict[str, Any]]
    sample: dict[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item, before it is stored. `results` have the keys name, type, score, passed and sample."""

    number: int
    status: ItemStatus
    datasource_item: dict[str, Any]
    results: list[dict[str, Any]]
    sample: dict[str, Any]
    asked: dict[str, dict[str, int]] = field(default_factory=dict)
    """Model -> `ASKED` of this item: sampling and judging together."""


ASKED = ("invocation_count", "failed_count", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")
"""What is counted of each model."""


@dataclass(slots=True)
class Tallies:
    """The sums of a run, kept with its row."""

    criteria: dict[str, dict[str, int]] = field(default_factory=dict)  # id -> passed, failed, errored
    models: dict[str, dict[str, int]] = field(default_factory=dict)  # name -> `ASKED`

    def add(self, outcome: Outcome) -> None:
        """Count one more item. A criterion that could not be graded neither passed nor failed."""
        for result in outcome.results:
            counts = self.criteria.setdefault(result["name"], {"passed": 0, "failed": 0, "errored": 0})
            failed_to_grade = "error" in (result["sample"] or {})
            counts["errored" if failed_to_grade else "passed" if result["passed"] else "failed"] += 1
        for model, asked in outcome.asked.items():
            sums = self.models.setdefault(model, dict.fromkeys(ASKED, 0))
            for name in ASKED:
                sums[name] += asked.get(name, 0)

    def as_dict(self) -> dict[str, Any]:
        """As the row keeps them."""
        return {"criteria": self.criteria, "models": self.models}
