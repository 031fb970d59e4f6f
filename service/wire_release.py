"""What was decided about a tune, as jobs show it. Knows no HTTP and no database."""

from typing import Any, Literal, Self

from service.wire import ResponseModel


class ShownInterval(ResponseModel):
    """A mean, and between what it would lie in 95 of 100 such samples of questions."""

    low: float
    mean: float
    high: float


class ShownSuite(ResponseModel):
    """A general suite before and after; not asked again where the base did not get half of it.

    The intervals of `change` hold for all suites together. `forgotten`: all of it is beyond `limit`.
    """

    name: str
    questions: int
    limit: float
    before: ShownInterval
    after: ShownInterval | None
    change: ShownInterval | None
    forgotten: bool


class ShownMacroF1(ResponseModel):
    """The macro-F1 of each who was asked, and how much higher that of the tune is."""

    scores: dict[str, float]
    compared_with: str | None
    gain: ShownInterval | None


class ShownRelease(ResponseModel):
    """The verdict, its reasons (`codes` are theirs), and the numbers, which are null where nothing was measured.

    `held`: the tune answers nobody, because the policy was `enforce` and no owner has let it out. `scores` are those of
    `zero_shot`, `few_shot`, `constant` (one answer for all), `start_model`, `tuned` and of checkpoints; `models` who
    that was. `gain` is the tune's over the best of the others. `valid`: share of answers that are JSON of the shape.
    """

    verdict: Literal["ship", "hold", "unmeasured"]
    reasons: list[str]
    codes: list[str]
    mode: Literal["inform", "enforce"]
    held: bool
    summary: str | None
    metric: Literal["json_fields", "label_accuracy", "exact_match", "text_similarity", "grader"] | None
    examples: int | None
    lines: list[int] | None
    scores: dict[str, ShownInterval] | None
    models: dict[str, str] | None
    compared_with: str | None
    gain: ShownInterval | None
    macro_f1: ShownMacroF1 | None
    valid: dict[str, float] | None
    bar: float | None
    suites: list[ShownSuite] | None
    forgetting_limit: float | None
    seed: int | None

    @classmethod
    def of(cls, result: dict[str, Any]) -> Self:
        """The wire form of what is kept with the job."""
        shown = dict.fromkeys(cls.model_fields) | {"reasons": [], "codes": []} | result
        if shown["macro_f1"] is not None:
            shown["macro_f1"] = {"compared_with": None, "gain": None} | shown["macro_f1"]
        if shown["suites"] is not None:  # until a suite could have a limit of its own, it was everybody's
            shown["suites"] = [{"limit": shown["forgetting_limit"]} | suite for suite in shown["suites"]]
        return cls.model_validate(shown)
