"""Bodies of evals: what is measured and by which criteria. Knows no HTTP and no database."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, StringConstraints, model_validator

from rootstock.evals import criteria, sources
from rootstock.evals.records import EvalRecord
from rootstock.records import Page
from service.wire import RequestModel, ResponseModel, ends, tag
from service.wire_graders import LabelModel, Python, ScoreModel, StringCheck, TextSimilarity, tag_of
from service.wire_values import Metadata

MAX_CRITERIA = 64
Title = Annotated[str, StringConstraints(max_length=512)]


class CustomSource(RequestModel):
    """Items of a schema of one's own; with `include_sample_schema` answers of a model go with them."""

    type: Literal["custom"]
    item_schema: dict[str, Any]
    include_sample_schema: bool | None = None


class LogsSource(RequestModel):
    """Stored completions that carry this metadata; `stored_completions` is the older name of `logs`."""

    type: Literal["logs", "stored_completions"]
    metadata: Metadata | None = None


SourceConfig = Annotated[
    Annotated[CustomSource, tag("custom")]
    | Annotated[LogsSource, tag("logs")]
    | Annotated[LogsSource, tag("stored_completions")],
    Discriminator(tag_of),
]


class SimilarityCriterion(TextSimilarity):
    """How alike two texts are; from `pass_threshold` on it passes."""

    pass_threshold: float


class ScoreCriterion(ScoreModel):
    """A number that a model gives. Without `pass_threshold` the middle of the range passes."""

    pass_threshold: float | None = None


class PythonCriterion(Python):
    """What `grade(sample, item)` returns. Without `pass_threshold` 0.5 passes."""

    pass_threshold: float | None = None


Criterion = Annotated[
    Annotated[LabelModel, tag("label_model")]
    | Annotated[StringCheck, tag("string_check")]
    | Annotated[SimilarityCriterion, tag("text_similarity")]
    | Annotated[PythonCriterion, tag("python")]
    | Annotated[ScoreCriterion, tag("score_model")],
    Discriminator(tag_of),
]


class CreateEval(RequestModel):
    """The body of `POST /v1/evals`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "capitals",
                    "data_source_config": {
                        "type": "custom",
                        "item_schema": {"type": "object", "properties": {"answer": {"type": "string"}}},
                        "include_sample_schema": True,
                    },
                    "testing_criteria": [
                        {
                            "type": "string_check",
                            "name": "same",
                            "input": "{{ sample.output_text }}",
                            "reference": "{{ item.answer }}",
                            "operation": "eq",
                        }
                    ],
                }
            ]
        }
    )

    data_source_config: SourceConfig
    testing_criteria: Annotated[list[Criterion], Field(min_length=1, max_length=MAX_CRITERIA)]
    name: Title | None = None
    metadata: Metadata | None = None

    def checked(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The source's configuration and the criteria, as they are answered.

        Raises `InvalidRequest` or one of its classes for a schema that is none, or a grader that could never grade.
        """
        config: dict[str, Any] = {"type": self.data_source_config.type}
        if isinstance(self.data_source_config, CustomSource):
            item_schema = self.data_source_config.item_schema
            sources.ItemSchema(item_schema)
            with_sample = bool(self.data_source_config.include_sample_schema)
            config["schema"] = sources.line_schema(item_schema, with_sample=with_sample)
        else:
            config["schema"] = sources.line_schema(None, with_sample=True)
            config["metadata"] = self.data_source_config.metadata or {}
        specs = [criterion.model_dump(exclude_none=True) for criterion in self.testing_criteria]
        criteria.check(specs)
        return config, [criteria.written_out(spec) for spec in specs]


class UpdateEval(RequestModel):
    """The body of `POST /v1/evals/{id}`: what is left out stays; `metadata` as `null` or `{}` is taken away."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "capitals of Europe"}]})

    name: Title | None = None
    metadata: Metadata | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_absent(cls, data: Any) -> Any:
        return data  # here null and {} do mean something: no metadata any more


class Eval(ResponseModel):
    """What is measured, and by which criteria."""

    id: str
    object: Literal["eval"]
    name: str
    created_at: int
    data_source_config: dict[str, Any]
    testing_criteria: list[dict[str, Any]]
    metadata: dict[str, str]

    @classmethod
    def of(cls, record: EvalRecord) -> Self:
        """The wire form of a row."""
        return cls(
            id=record.id,
            object="eval",
            name=record.name,
            created_at=int(record.created_at),
            data_source_config=record.data_source_config,
            testing_criteria=record.testing_criteria,
            metadata=record.metadata or {},
        )


class EvalPage(ResponseModel):
    """A page of evals."""

    object: Literal["list"]
    data: list[Eval]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[EvalRecord]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [Eval.of(record) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


class DeletedEval(ResponseModel):
    """The answer to a DELETE of an eval."""

    object: Literal["eval.deleted"]
    deleted: Literal[True]
    eval_id: str
