"""Bodies of `/v1/rootstock/upgrades`. Knows no HTTP and no database."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field

from rootstock.upgrades import MOST_MODELS, Affected, Upgrade
from service.wire import RequestModel, ResponseModel, ends, whole
from service.wire_values import integral

Status = Literal["planned", "running", "completed", "cancelled"]
State = Literal["waiting", "skipped", "training", "moving", "released", "kept", "failed", "cancelled"]


class PlanUpgrade(RequestModel):
    """The body of `POST /v1/rootstock/upgrades`: which models, from which base to which. Starts nothing."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"from": "Qwen3-0.6B", "to": "Qwen3-1.7B", "concurrency": 4}]}
    )

    from_base: Annotated[str, Field(alias="from", min_length=1, max_length=256)]
    to_base: Annotated[str, Field(alias="to", min_length=1, max_length=256)]
    models: Annotated[list[str], Field(min_length=1, max_length=MOST_MODELS)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=64), BeforeValidator(integral)] = 2


class UpgradeEstimate(ResponseModel):
    """What tuning again takes. `seconds` are null where nothing tells them, `cost` where no price is set.

    `basis` says where the numbers are from: jobs that ended on the new base, a roofline, or the first time.
    """

    trained_tokens: int
    steps: int
    seconds: float | None
    cost: float | None
    basis: str


class UpgradeScore(ResponseModel):
    """A mean on held-out examples, with its interval."""

    mean: float
    low: float
    high: float


class UpgradeSide(ResponseModel):
    """One of two models that are compared, by its own job's measurements; null where nothing was measured."""

    model: str | None
    job: str
    base: str
    verdict: Literal["ship", "hold", "unmeasured"] | None
    metric: str | None
    score: UpgradeScore | None
    valid_loss: float | None


class UpgradeComparison(ResponseModel):
    """Old and new side by side; `new` is null until it is trained. `change` is new less old of the same metric.

    `gain` is its interval over the examples that both were asked, null where those are not the same or too few.
    """

    old: UpgradeSide
    new: UpgradeSide | None
    change: float | None
    gain: UpgradeScore | None


class AliasMoved(ResponseModel):
    """What became of one alias: its new `revision`, or the `reason` why it stayed."""

    alias: str
    moved: bool
    revision: int | None
    reason: str | None


class UpgradeModel(ResponseModel):
    """A tuned model on the old base and what becomes of it."""

    model: str
    job: str
    state: State
    reason: str | None
    aliases: list[str]
    estimate: UpgradeEstimate | None
    new_job: str | None
    comparison: UpgradeComparison | None
    moves: list[AliasMoved]
    updated_at: int

    @classmethod
    def of(cls, one: Affected) -> Self:
        """The wire form of a row."""
        return cls.model_validate(
            {
                "model": one.model,
                "job": one.job_id,
                "state": str(one.state),
                "reason": one.reason,
                "aliases": one.aliases,
                "estimate": one.estimate,
                "new_job": one.new_job_id,
                "comparison": one.report,
                "moves": one.moves,
                "updated_at": int(one.updated_at),
            }
        )


class UpgradeSummary(ResponseModel):
    """An upgrade without its models; `counts` says how many are in which state."""

    id: str
    object: Literal["rootstock.upgrade"]
    status: Status
    from_base: Annotated[str, Field(alias="from")]
    to_base: Annotated[str, Field(alias="to")]
    concurrency: int
    counts: dict[str, int]
    created_at: int
    started_at: int | None
    finished_at: int | None

    @classmethod
    def of(cls, upgrade: Upgrade, counts: dict[str, int]) -> Self:
        """The wire form of a row."""
        return cls.model_validate(_shown(upgrade, counts))


class ShownUpgrade(UpgradeSummary):
    """An upgrade with every model it is about; `total` adds the estimates of those that can be tuned again up."""

    total: UpgradeEstimate
    models: list[UpgradeModel]

    @classmethod
    def whole(cls, upgrade: Upgrade, models: Sequence[Affected]) -> Self:
        """The wire form of a row and the rows of its models."""
        counts: dict[str, int] = {}
        for one in models:
            counts[one.state] = counts.get(one.state, 0) + 1
        shown = {"total": _total(models), "models": [UpgradeModel.of(one) for one in models]}
        return cls.model_validate(_shown(upgrade, counts) | shown)


class UpgradePage(ResponseModel):
    """A page of upgrades."""

    object: Literal["list"]
    data: list[UpgradeSummary]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[Upgrade], counts: dict[str, dict[str, int]], *, has_more: bool) -> Self:
        """The wire form of a page."""
        first, last = ends(data)
        shown = [UpgradeSummary.of(one, counts[one.id]) for one in data]
        return cls(object="list", data=shown, first_id=first, last_id=last, has_more=has_more)


def _shown(upgrade: Upgrade, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "id": upgrade.id,
        "object": "rootstock.upgrade",
        "status": upgrade.status,
        "from": upgrade.from_base,
        "to": upgrade.to_base,
        "concurrency": upgrade.concurrency,
        "counts": counts,
        "created_at": int(upgrade.created_at),
        "started_at": whole(upgrade.started_at),
        "finished_at": whole(upgrade.finished_at),
    }


def _total(models: Sequence[Affected]) -> UpgradeEstimate:
    counted = [one.estimate for one in models if one.estimate is not None and one.state != "skipped"]
    seconds, costs = ([one[name] for one in counted] for name in ("seconds", "cost"))
    return UpgradeEstimate(
        trained_tokens=sum(one["trained_tokens"] for one in counted),
        steps=sum(one["steps"] for one in counted),
        seconds=None if None in seconds else sum(seconds),
        cost=None if None in costs else sum(costs),
        basis=f"sum of {len(counted)} estimates",
    )
