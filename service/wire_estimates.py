"""The body of an estimate. Knows no HTTP and no database."""

from typing import Literal, Self

from rootstock.estimating import Bars, Estimate
from rootstock.estimating.estimate import PROMPTED_EXAMPLES
from service.wire import ResponseModel


class ShownBars(ResponseModel):
    """A number that is not known yet: nine jobs of ten are to lie between `low` and `high`."""

    low: float
    mean: float
    high: float


class BreakEven(ResponseModel):
    """From how many calls on the tuned model takes less computing than the base with examples in its prompt.

    `calls` counts operations, not money: training's against those of reading the examples with every call.
    """

    examples_in_prompt: int
    tokens_saved_per_call: int
    calls: int | None


class BasedOn(ResponseModel):
    """What the time rests on: so many ended jobs of this base, method and type, a roofline, or nothing yet."""

    source: Literal["history", "roofline", "nothing"]
    jobs: int


class ShownEstimate(ResponseModel):
    """What a job would take. Null for what nothing tells yet; `notes` say why, and what would."""

    object: Literal["rootstock.estimate"]
    base: str
    n_epochs: int
    batch_size: int
    steps: int
    trained_tokens: ShownBars
    peak_memory_gib: ShownBars | None
    seconds: ShownBars | None
    cost: ShownBars | None
    break_even: BreakEven
    jobs_ahead: int
    based_on: BasedOn
    notes: list[str]

    @classmethod
    def of(cls, base: str, made: Estimate) -> Self:
        """The wire form."""
        even = {"examples_in_prompt": PROMPTED_EXAMPLES, "tokens_saved_per_call": made.saved_tokens_per_call}
        return cls.model_validate(
            {
                "object": "rootstock.estimate",
                "base": base,
                **{name: getattr(made, name) for name in ("n_epochs", "batch_size", "steps", "jobs_ahead", "notes")},
                **{
                    name: _shown(getattr(made, name))
                    for name in ("trained_tokens", "peak_memory_gib", "seconds", "cost")
                },
                "break_even": even | {"calls": made.break_even_calls},
                "based_on": {"source": made.based_on, "jobs": made.jobs},
            }
        )


def _shown(bars: Bars | None) -> dict[str, float] | None:
    return None if bars is None else {"low": bars.low, "mean": bars.mean, "high": bars.high}
