"""Bodies of an eval's runs and of their output items. Knows no HTTP and no database."""

from typing import Any, Literal, Self

from pydantic import ConfigDict

from rootstock.evals.records import ItemRecord, RunRecord
from rootstock.records import Page
from service.wire import RequestModel, ResponseModel, ends
from service.wire_eval_sources import DataSource
from service.wire_evals import Title
from service.wire_values import Metadata

_MODEL_COUNTS = ("invocation_count", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")


class CreateRun(RequestModel):
    """The body of `POST /v1/evals/{eval_id}/runs`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "first",
                    "data_source": {
                        "type": "completions",
                        "model": "gpt-4o-mini",
                        "input_messages": {
                            "type": "template",
                            "template": [{"role": "user", "content": "The capital of {{ item.country }}?"}],
                        },
                        "source": {
                            "type": "file_content",
                            "content": [{"item": {"country": "France", "answer": "Paris"}}],
                        },
                    },
                }
            ]
        }
    )

    data_source: DataSource
    name: Title | None = None
    metadata: Metadata | None = None


class ResultCounts(ResponseModel):
    """Items of a run: all, those that passed every criterion, those that did not, those without a usable result."""

    total: int
    errored: int
    failed: int
    passed: int


class ModelUsage(ResponseModel):
    """What one model was asked, sampling and judging together."""

    model_name: str
    invocation_count: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class CriterionResult(ResponseModel):
    """How many items met one criterion; what could not be graded is neither passed nor failed."""

    testing_criteria: str
    passed: int
    failed: int
    errored: int


class EvalApiError(ResponseModel):
    """What went wrong."""

    code: str
    message: str


class EvalRun(ResponseModel):
    """One measurement."""

    id: str
    object: Literal["eval.run"]
    eval_id: str
    report_url: str
    status: Literal["queued", "in_progress", "completed", "failed", "canceled"]
    model: str
    name: str
    created_at: int
    result_counts: ResultCounts
    per_model_usage: list[ModelUsage]
    per_testing_criteria_results: list[CriterionResult]
    data_source: dict[str, Any]
    error: EvalApiError | None
    metadata: dict[str, str]

    @classmethod
    def of(cls, record: RunRecord, address: str) -> Self:
        """The wire form of a row; `address` is where this API is found."""
        models, by_criterion = record.tallies["models"], record.tallies["criteria"]
        nothing = {"passed": 0, "failed": 0, "errored": 0}
        results = {spec["id"]: nothing | by_criterion.get(spec["id"], {}) for spec in record.testing_criteria}
        return cls(
            id=record.id,
            object="eval.run",
            eval_id=record.eval_id,
            report_url=f"{address}/v1/evals/{record.eval_id}/runs/{record.id}/output_items",
            status=record.status.value,
            model=record.model,
            name=record.name,
            created_at=int(record.created_at),
            result_counts=ResultCounts(
                total=record.total, errored=record.errored, failed=record.failed, passed=record.passed
            ),
            per_model_usage=[
                ModelUsage(model_name=model, **{name: counts[name] for name in _MODEL_COUNTS})
                for model, counts in sorted(models.items())
            ],
            per_testing_criteria_results=[
                CriterionResult(testing_criteria=name, **counts) for name, counts in results.items()
            ],
            data_source=record.data_source,
            error=EvalApiError(**record.error) if record.error else None,
            metadata=record.metadata or {},
        )


class RunPage(ResponseModel):
    """A page of runs."""

    object: Literal["list"]
    data: list[EvalRun]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[RunRecord], address: str) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [EvalRun.of(record, address) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)


class DeletedRun(ResponseModel):
    """The answer to a DELETE of a run."""

    object: Literal["eval.run.deleted"]
    deleted: Literal[True]
    run_id: str


class ItemResult(ResponseModel):
    """What one criterion says of one item. `sample.error` tells why it could not be graded."""

    name: str
    type: str
    score: float
    passed: bool
    sample: dict[str, Any] | None


class OutputItem(ResponseModel):
    """What became of one item."""

    id: str
    object: Literal["eval.run.output_item"]
    created_at: int
    run_id: str
    eval_id: str
    status: Literal["pass", "fail", "error"]
    datasource_item_id: int
    datasource_item: dict[str, Any]
    results: list[ItemResult]
    sample: dict[str, Any]

    @classmethod
    def of(cls, record: ItemRecord, eval_id: str) -> Self:
        """The wire form of a row."""
        return cls(
            id=record.id,
            object="eval.run.output_item",
            created_at=int(record.created_at),
            run_id=record.run_id,
            eval_id=eval_id,
            status=record.status.value,
            datasource_item_id=record.number,
            datasource_item=record.datasource_item,
            results=[ItemResult.model_validate(result) for result in record.results],
            sample=record.sample,
        )


class ItemPage(ResponseModel):
    """A page of output items."""

    object: Literal["list"]
    data: list[OutputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[ItemRecord], eval_id: str) -> Self:
        """The wire form of a page."""
        first, last = ends(page.data)
        data = [OutputItem.of(record, eval_id) for record in page.data]
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=page.has_more)
