"""OpenAI-shaped graders, checked by shape. Knows no HTTP and nothing about how grading is done."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from service.wire import RequestModel, tag
from service.wire_values import integral

MAX_SOURCE_CHARS = 256 * 1024
MAX_GRADERS = 32

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
FormulaName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
"""What a formula can refer to."""


def tag_of(value: Any) -> str | None:
    """The branch of a union that is told apart by `type`."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if isinstance(kind, str) else None


class TextPart(RequestModel):
    """A piece of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") in ("input_image", "input_audio"):
            raise PydanticCustomError("unsupported_value", "this deployment takes text parts only")
        return value


def _content_tag(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<parts>" if isinstance(value, list) else "<part>"


Parts = list[Annotated[Annotated[str, tag("text")] | Annotated[TextPart, tag("part")], Discriminator(_content_tag)]]


class GraderMessage(RequestModel):
    """A message for the model that judges; its text may hold `{{ item.x }}` and `{{ sample.x }}`."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        Annotated[str, tag("text")] | Annotated[TextPart, tag("part")] | Annotated[Parts, tag("parts")],
        Discriminator(_content_tag),
    ]
    type: Literal["message"] | None = None


class StringCheck(RequestModel):
    """1 when the comparison holds, else 0."""

    type: Literal["string_check"]
    name: Name
    input: str
    reference: str
    operation: Annotated[Literal["eq", "ne", "like", "ilike"], BeforeValidator(lambda v: "ne" if v == "neq" else v)]


class TextSimilarity(RequestModel):
    """How alike two texts are, 0 to 1."""

    type: Literal["text_similarity"]
    name: Name
    input: str
    reference: str
    evaluation_metric: Literal[
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "cosine",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
    ]
    pass_threshold: float | None = None


class SamplingParams(RequestModel):
    """How the model that judges is asked."""

    seed: Annotated[int, BeforeValidator(integral)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_completions_tokens: Annotated[int, Field(ge=1), BeforeValidator(integral)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class ScoreModel(RequestModel):
    """A number that a model gives, clamped to `range`."""

    type: Literal["score_model"]
    name: Name
    model: Name
    input: Annotated[list[GraderMessage], Field(min_length=1)]
    range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    sampling_params: SamplingParams | None = None

    @field_validator("range")
    @classmethod
    def _rising(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and value[0] >= value[1]:
            raise PydanticCustomError("invalid_value", "expected [lowest, highest]")
        return value


class LabelModel(RequestModel):
    """1 when a model chooses one of the passing labels."""

    type: Literal["label_model"]
    name: Name
    model: Name
    input: Annotated[list[GraderMessage], Field(min_length=1)]
    labels: Annotated[list[str], Field(min_length=1)]
    passing_labels: Annotated[list[str], Field(min_length=1)]
    sampling_params: SamplingParams | None = None

    @field_validator("passing_labels")
    @classmethod
    def _known(cls, value: list[str], info: Any) -> list[str]:
        if set(value) - set(info.data.get("labels", value)):
            raise PydanticCustomError("invalid_value", "every passing label must be one of 'labels'")
        return value


class Python(RequestModel):
    """What `grade(sample, item)` returns."""

    type: Literal["python"]
    name: Name = "python"  # the schema asks for it, the guides leave it out
    source: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SOURCE_CHARS)]
    image_tag: str | None = None


Part = Annotated[
    Annotated[StringCheck, tag("string_check")]
    | Annotated[TextSimilarity, tag("text_similarity")]
    | Annotated[ScoreModel, tag("score_model")]
    | Annotated[LabelModel, tag("label_model")]
    | Annotated[Python, tag("python")],
    Discriminator(tag_of),
]
"""A grader that may stand inside `multi`."""


class Multi(RequestModel):
    """A formula over the scores of others; `graders` is a map in the guides and a list in some examples."""

    type: Literal["multi"]
    name: Name = "multi"
    graders: Annotated[
        Annotated[
            dict[FormulaName, Part],
            # A name that is none would be described as welcome with any value.
            Field(min_length=1, max_length=MAX_GRADERS, json_schema_extra={"additionalProperties": False}),
            tag("map"),
        ]
        | Annotated[list[Part], Field(min_length=1, max_length=MAX_GRADERS), tag("list")],
        Discriminator(lambda value: "<list>" if isinstance(value, list) else "<map>"),
    ]
    calculate_output: Annotated[str, StringConstraints(min_length=1, max_length=4096)]

    @field_validator("graders")
    @classmethod
    def _distinct(cls, value: Any) -> Any:
        if isinstance(value, list) and len({grader.name for grader in value}) < len(value):
            raise PydanticCustomError("invalid_value", "the graders of a list must have different names")
        return value


Grader = Annotated[
    Annotated[StringCheck, tag("string_check")]
    | Annotated[TextSimilarity, tag("text_similarity")]
    | Annotated[ScoreModel, tag("score_model")]
    | Annotated[Python, tag("python")]
    | Annotated[Multi, tag("multi")],
    Discriminator(tag_of),
]
"""A grader that may judge a job by itself (`label_model` may not)."""
