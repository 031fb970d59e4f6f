"""Bodies of `/v1/rootstock/distillations`. Knows no HTTP and no database."""

import secrets
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints

from rootstock.distil.records import Distillation
from rootstock.records import Page
from service.wire import RequestModel, ResponseModel, ends, tag, whole
from service.wire_graders import Grader
from service.wire_inference import MAX_TOKENS, ResponseFormat
from service.wire_values import PRINTABLE, Metadata, integral

MAX_INLINE = 1000
MAX_EXAMPLES = 50_000
MAX_SEED = 2**31 - 1

Time = Annotated[int, Field(ge=0, le=2**53), BeforeValidator(integral)]
Count = Annotated[int, Field(ge=1, le=MAX_EXAMPLES), BeforeValidator(integral)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class StoredSource(RequestModel):
    """Stored chat completions of the project; times are Unix seconds, both included."""

    type: Literal["stored_completions"]
    model: str | None = None
    metadata: Metadata | None = None
    created_after: Time | None = None
    created_before: Time | None = None


class FileSource(RequestModel):
    """A file of chat lines; an answer at the end of a line is left out."""

    type: Literal["file"]
    file_id: str


class PromptsSource(RequestModel):
    """Chat lines in the request itself."""

    type: Literal["prompts"]
    prompts: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_INLINE)]


def _source_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if isinstance(kind, str) else None


Source = Annotated[
    Annotated[StoredSource, tag("stored_completions")]
    | Annotated[FileSource, tag("file")]
    | Annotated[PromptsSource, tag("prompts")],
    Discriminator(_source_tag),
]


class DistillationTeacher(RequestModel):
    """Who answers: a model that is served here, or with `base_url` one behind any OpenAI-compatible endpoint.

    `api_key` is the endpoint's: kept for the length of the run, then wiped, and never shown.
    """

    model: Annotated[str, StringConstraints(min_length=1, max_length=256), *PRINTABLE]
    base_url: Annotated[str, StringConstraints(min_length=1, max_length=2048), *PRINTABLE] | None = None
    api_key: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[!-~]+$")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), BeforeValidator(integral)] | None = None


class GraderFilter(RequestModel):
    """Answers that a grader gives less than `min_score` are left out."""

    grader: Grader
    min_score: Annotated[float, Field(allow_inf_nan=False)] = 0.5


class DistillationFilters(RequestModel):
    """What is left out beyond answers that are empty, cut off, or not of the format that was asked for."""

    refusals: bool = True
    pii: bool = False
    near_duplicates: Share | None = 0.9
    grader: GraderFilter | None = None


class DistillationBudget(RequestModel):
    """Where it ends: prompts that are asked (drawn by the seed when there are more), tokens of all models together."""

    max_examples: Count = 10_000
    max_tokens: Annotated[int, Field(ge=1, le=2**53), BeforeValidator(integral)] | None = None


class CreateDistillation(RequestModel):
    """The body of `POST /v1/rootstock/distillations`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"source": {"type": "stored_completions", "model": "gpt-4o", "metadata": {"task": "tickets"}}},
                {
                    "source": {"type": "file", "file_id": "file-abc123"},
                    "teacher": {"base_url": "https://api.example.com/v1", "model": "large", "api_key": "sk-..."},
                    "budget": {"max_examples": 2000, "max_tokens": 1_000_000},
                    "seed": 42,
                },
            ]
        }
    )

    source: Source
    teacher: DistillationTeacher | None = None
    response_format: ResponseFormat | None = None
    filters: DistillationFilters | None = None
    budget: DistillationBudget | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), BeforeValidator(integral)] | None = None
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64), *PRINTABLE] | None = None

    def spec(self) -> dict[str, Any]:
        """What is kept with the row: defaults and a seed filled in, without the teacher's key and without prompts."""
        kept = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude={"teacher": {"api_key"}, "source": {"prompts"}}
        )
        kept["filters"] = (self.filters or DistillationFilters()).model_dump(mode="json", by_alias=True)
        kept["budget"] = (self.budget or DistillationBudget()).model_dump()
        kept["seed"] = secrets.randbelow(MAX_SEED) if self.seed is None else self.seed
        return {"teacher": None, "response_format": None, "suffix": None} | kept


class ShownTeacher(ResponseModel):
    """Who answers; `external` behind `base_url`. Its key is never shown."""

    model: str
    external: bool
    base_url: str | None


class DistillationCounts(ResponseModel):
    """Prompts that were drawn, those that came to an outcome, and how many came to which.

    `outcomes` are `kept` and why others were left out, before asking (`invalid_prompt`, `repeated_prompt`, `not_drawn`,
    `not_asked`) or after it.
    """

    total: int
    done: int
    kept: int
    outcomes: dict[str, int]


class DistillationUsage(ResponseModel):
    """Tokens of all questions, to teacher and graders."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class DistillationError(ResponseModel):
    """Why it failed, or ended before every prompt was asked."""

    code: str
    message: str


class ShownDistillation(ResponseModel):
    """Answers of a teacher on their way to a training file."""

    id: str
    object: Literal["rootstock.distillation"]
    status: Literal["queued", "in_progress", "finalizing", "completed", "failed", "cancelled"]
    source: dict[str, Any]
    teacher: ShownTeacher | None
    response_format: dict[str, Any] | None
    filters: dict[str, Any]
    budget: dict[str, Any]
    seed: int
    suffix: str | None
    counts: DistillationCounts
    usage: DistillationUsage
    stopped_by: Literal["max_tokens", "teacher"] | None
    error: DistillationError | None
    training_file: str | None
    provenance_file: str | None
    provenance: dict[str, Any] | None
    created_at: int
    started_at: int | None
    finished_at: int | None

    @classmethod
    def of(cls, run: Distillation) -> Self:
        """The wire form of a row."""
        spec, teacher = run.spec, run.spec["teacher"]
        shown = None
        if teacher is not None:
            url = teacher.get("base_url")
            shown = {"model": teacher["model"], "external": url is not None, "base_url": url}
        prompt, completion = run.usage["prompt_tokens"], run.usage["completion_tokens"]
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        counts = {"total": run.total, "done": run.done, "kept": run.outcomes.get("kept", 0), "outcomes": run.outcomes}
        asked = {name: spec[name] for name in ("response_format", "filters", "budget", "seed", "suffix")}
        return cls.model_validate(
            {
                "id": run.id,
                "object": "rootstock.distillation",
                "status": str(run.status),
                "source": spec["source"],
                "teacher": shown,
                "counts": counts,
                "usage": usage,
                "stopped_by": run.stopped_by,
                "error": run.error,
                "training_file": run.training_file,
                "provenance_file": run.provenance_file,
                "provenance": run.provenance,
                "created_at": int(run.created_at),
                "started_at": whole(run.started_at),
                "finished_at": whole(run.finished_at),
            }
            | asked
        )


class DistillationPage(ResponseModel):
    """A page of distillations."""

    object: Literal["list"]
    data: list[ShownDistillation]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[Distillation]) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [ShownDistillation.of(run) for run in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)
