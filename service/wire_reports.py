"""The body of a job's report. Knows no HTTP and no database."""

from typing import Any, Literal

from service.wire import ResponseModel
from service.wire_estimates import ShownBars
from service.wire_release import ShownRelease


class Point(ResponseModel):
    """A number that was told at a step."""

    step: int
    value: float


class Curves(ResponseModel):
    """What training told, thinned to at most 500 points each: losses in nats a token, or rewards."""

    train_loss: list[Point]
    valid_loss: list[Point]
    full_valid_loss: list[Point]
    reward: list[Point]


class Confusion(ResponseModel):
    """How often a right label (row) was answered with which (column); the last column is what is no label."""

    labels: list[str]
    counts: list[list[int]]


class Side(ResponseModel):
    """A held-out example with the answers before and after, and their scores between 0 and 1."""

    line: int
    question: str
    right: str
    before: str | None
    after: str | None
    score_before: float | None
    score_after: float | None


class Estimated(ResponseModel):
    """A number of the estimate beside what came of it; null for what is not known."""

    estimated: ShownBars | None
    actual: float | None


class AgainstEstimate(ResponseModel):
    """What the job was thought to take and what it took."""

    steps: Estimated
    trained_tokens: Estimated
    seconds: Estimated
    peak_memory_gib: Estimated


class JobReport(ResponseModel):
    """Everything about one job in one place. Null for what there is not, or not yet."""

    object: Literal["rootstock.job_report"]
    job_id: str
    status: str
    base: str
    fine_tuned_model: str | None
    method: str
    trained_tokens: int | None
    curves: Curves
    release: ShownRelease | None
    confusion: Confusion | None
    scores: dict[str, list[float | None]]
    """Of each who was asked, and of each suite before and after, the score of every question in order."""
    worst: list[Side]
    estimate: AgainstEstimate | None
    data: dict[str, Any] | None
