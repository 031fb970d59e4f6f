"""The `method` of a job, by shape, and the hyperparameters that each one has. Knows no HTTP and no database."""

from typing import Annotated, Literal

from service.wire import RequestModel
from service.wire_graders import Grader
from service.wire_inference import JsonSchema
from service.wire_values import auto_or_integer, auto_or_number

COMMON = ("n_epochs", "batch_size", "learning_rate_multiplier")
"""What every method has, and what the job shows as `hyperparameters`."""


class Hyperparameters(RequestModel):
    """What any method may be told; "auto" is resolved by the trainer."""

    n_epochs: Annotated[int | Literal["auto"], auto_or_integer(1, 50)] = "auto"
    batch_size: Annotated[int | Literal["auto"], auto_or_integer(1, 256)] = "auto"
    learning_rate_multiplier: Annotated[float | Literal["auto"], auto_or_number(0)] = "auto"


class DpoHyperparameters(Hyperparameters):
    """With how strongly preferences hold the model to where it started."""

    beta: Annotated[float | Literal["auto"], auto_or_number(0, 2)] = "auto"


class ReinforcementHyperparameters(Hyperparameters):
    """With how much is sampled and how often it is measured."""

    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    compute_multiplier: Annotated[float | Literal["auto"], auto_or_number(0.00001, 10)] = "auto"
    eval_interval: Annotated[int | Literal["auto"], auto_or_integer(1)] = "auto"
    eval_samples: Annotated[int | Literal["auto"], auto_or_integer(1)] = "auto"


class Supervised(RequestModel):
    """The supervised branch of `method`."""

    hyperparameters: Hyperparameters | None = None


class Dpo(RequestModel):
    """The preference branch of `method`."""

    hyperparameters: DpoHyperparameters | None = None


class SampleFormat(RequestModel):
    """The form that sampled answers must have."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class Reinforcement(RequestModel):
    """The reinforcement branch of `method`; it cannot do without a grader."""

    grader: Grader
    response_format: SampleFormat | None = None
    hyperparameters: ReinforcementHyperparameters | None = None


class Method(RequestModel):
    """How to tune. Only the branch that `type` names may be filled."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    reinforcement: Reinforcement | None = None


HYPERPARAMETERS: dict[str, type[Hyperparameters]] = {
    "supervised": Hyperparameters,
    "dpo": DpoHyperparameters,
    "reinforcement": ReinforcementHyperparameters,
}
"""Method -> its hyperparameters."""
