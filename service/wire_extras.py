"""The `rootstock` object of a job: what may be asked for beyond the OpenAI API, and how it is shown. Knows no HTTP."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from rootstock.records import JobRecord
from rootstock.release.replay import MOST_SHARE
from rootstock.settings import LORA_RANKS
from service.wire import RequestModel, ResponseModel
from service.wire_graders import Grader
from service.wire_release import ShownRelease
from service.wire_values import integral

AdapterType = Literal["lora", "qlora", "full"]


class AdapterWish(RequestModel):
    """What is trained: a LoRA adapter, one on a base quantised to NF4, or all weights of the base."""

    type: AdapterType = "lora"
    rank: Annotated[int, BeforeValidator(integral), Field(json_schema_extra={"enum": list(LORA_RANKS)})] | None = None
    alpha: Annotated[int, BeforeValidator(integral), Field(ge=1, le=1024)] | None = None
    rslora: bool | None = None

    @field_validator("rank")
    @classmethod
    def _servable(cls, value: int | None) -> int | None:
        if value is not None and value not in LORA_RANKS:
            raise PydanticCustomError("invalid_value", f"expected one of {', '.join(map(str, LORA_RANKS))}")
        return value


class EarlyStopping(RequestModel):
    """End when `patience` validations in a row were no better by `min_delta` than the best; keep the best.

    Better is a lower validation loss, or (`task`) better answers to the held-out examples.
    """

    metric: Literal["loss", "task"] = "loss"
    patience: Annotated[int, Field(ge=1, le=50), BeforeValidator(integral)] = 1
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class Budget(RequestModel):
    """End with what is learned by then: after so many trained tokens or minutes of training."""

    max_tokens: Annotated[int, Field(ge=1, le=2**53), BeforeValidator(integral)] | None = None
    max_minutes: Annotated[float, Field(gt=0, le=1_000_000)] | None = None


class Replay(RequestModel):
    """Mix general examples in, against forgetting: those of a file, or the ones that come with Rootstock.

    They are `share` of all that is trained on.
    """

    share: Annotated[float, Field(gt=0, le=MOST_SHARE)]
    file: str | None = None


class Split(RequestModel):
    """Hold lines of the training file out for validation: a share of each label, nothing nearly on both sides."""

    share: Annotated[float, Field(gt=0, le=0.5)]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(integral)] = 1


class Measure(RequestModel):
    """How the release gate scores answers: a grader in place of the metric that it picks.

    Graders see the held-out example as `item`: its `messages`, the `reference_answer`, and what else its line holds.
    `bar`: a prompt that scores this much makes a tune needless; in the grader's own unit.
    """

    grader: Grader | None = None
    bar: Annotated[float, Field(allow_inf_nan=False)] | None = None


class SamplingWish(RequestModel):
    """How a reinforcement job samples."""

    max_tokens: Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(integral)]


class Extras(RequestModel):
    """What Rootstock can do beyond the OpenAI API."""

    adapter: AdapterWish | None = None
    early_stopping: EarlyStopping | None = None
    budget: Budget | None = None
    sampling: SamplingWish | None = None
    dry_run: bool | None = None
    """Create nothing; answer with the estimate."""
    replay: Replay | None = None
    split: Split | None = None
    measure: Measure | None = None


class ShownAdapter(ResponseModel):
    """The adapter as asked ("auto") until a worker began the job, then as trained; numbers are null for `full`."""

    type: AdapterType
    rank: int | Literal["auto"] | None
    alpha: float | Literal["auto"] | None
    rslora: bool | None


class ShownEarlyStopping(ResponseModel):
    """As asked for."""

    metric: Literal["loss", "task"]
    patience: int
    min_delta: float


class ShownSplit(ResponseModel):
    """As asked for; `held_out` is the number of lines, once a worker began the job."""

    share: float
    seed: int
    held_out: int | None


class ShownMeasure(ResponseModel):
    """As asked for."""

    grader: dict[str, Any] | None
    bar: float | None


class ShownBudget(ResponseModel):
    """As asked for."""

    max_tokens: int | None
    max_minutes: float | None


class ShownReplay(ResponseModel):
    """As asked for; null is the set that comes with Rootstock.

    `examples` and `tokens` are those that each epoch holds beside the job's own, once a worker began it.
    """

    share: float
    file: str | None
    examples: int | None
    tokens: int | None


class ShownSampling(ResponseModel):
    """The longest answer that is sampled, as asked."""

    max_tokens: int


_UNASKED = {"type": "lora", "rank": "auto", "alpha": "auto", "rslora": False}


class JobExtras(ResponseModel):
    """What the OpenAI API has no place for. `attempts`: workers that began the job since it was created or resumed.

    `engine` and `sharing` are known once a worker began it: what trains it, and which jobs may share its passes.
    `stopped_early` says why the job ended before its last step; `best_step` is the step with the best full validation;
    `tokens_saved` are those that it would have trained until then.
    `release` is the verdict on the tune, once it was measured.
    """

    adapter: ShownAdapter
    early_stopping: ShownEarlyStopping | None
    budget: ShownBudget | None
    split: ShownSplit | None
    measure: ShownMeasure | None
    sampling: ShownSampling | None
    replay: ShownReplay | None
    engine: Literal["packed", "peft", "full"] | None
    sharing: Literal["deployment", "project", "off"] | None
    start_model: str | None
    attempts: int
    step: int
    total_steps: int | None
    stopped_early: str | None
    best_step: int | None
    tokens_saved: int | None
    release: ShownRelease | None

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """The wire form of a row."""
        kept: dict[str, Any] = record.rootstock or {}
        return cls.model_validate(
            {
                "adapter": dict.fromkeys(("rank", "alpha", "rslora")) | (kept.get("adapter") or _UNASKED),
                "early_stopping": (stopping := kept.get("early_stopping")) and {"metric": "loss"} | stopping,
                "budget": kept.get("budget"),
                "split": (split := kept.get("split")) and {"held_out": None} | split,
                "measure": (measure := kept.get("measure")) and {"grader": None, "bar": None} | measure,
                "sampling": kept.get("sampling"),
                "replay": _replay(kept.get("replay")),
                "engine": kept.get("engine"),
                "sharing": kept.get("sharing"),
                "start_model": record.start_model,
                "attempts": record.attempts,
                "step": record.progress_step,
                "total_steps": record.total_steps,
                "stopped_early": kept.get("stopped_early"),
                "best_step": kept.get("best_step"),
                "tokens_saved": kept.get("tokens_saved"),
                "release": None if kept.get("release") is None else ShownRelease.of(kept["release"]),
            }
        )


def _replay(kept: dict[str, Any] | None) -> dict[str, Any] | None:
    return kept and {name: kept.get(name) for name in ("share", "file", "examples", "tokens")}
