"""The bodies of an advice. Knows no HTTP and no database."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from service.wire import RequestModel, ResponseModel

MOST_INLINE = 1000


class AdviceWish(RequestModel):
    """The body of `POST /v1/rootstock/advice`: what is to be done, and examples of it, in a file or inline."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"task": "Sort tickets into four queues.", "training_file": "file-abc"}]}
    )

    task: Annotated[str, StringConstraints(max_length=4000)] | None = None
    training_file: Annotated[str, StringConstraints(max_length=512)] | None = None
    examples: Annotated[list[dict[str, Any]], Field(max_length=MOST_INLINE)] | None = None
    model: Annotated[str, StringConstraints(max_length=256)] | None = None
    """A base model; the first one where it is left out."""


class ShownReason(ResponseModel):
    """Why: a code for programs, a sentence for people, the numbers that it rests on."""

    code: str
    message: str
    numbers: dict[str, Any]


class ShownBaseline(ResponseModel):
    """What the base got on held-out examples, of 1, with its interval; null for what could not be asked."""

    metric: str
    examples: int
    zero_shot: dict[str, float] | None
    few_shot: dict[str, float] | None


class ShownAdvice(ResponseModel):
    """What to do and why. `findings` counts lines by kind of the data report, `baseline` is null without serving."""

    object: Literal["rootstock.advice"]
    recommendation: Literal["prompting", "retrieval", "tuning", "both"]
    reasons: list[ShownReason]
    base: str
    examples: int
    findings: dict[str, int]
    baseline: ShownBaseline | None
