"""Bodies of the grader operations: a grader checked, or tried on one answer. Knows no HTTP and no grader's insides."""

from typing import Any, Self

from pydantic import ConfigDict

from rootstock.grading import Flag, Grade
from service.wire import RequestModel, ResponseModel
from service.wire_graders import Grader

_EXAMPLE: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "operation": "eq",
}


class ValidateGrader(RequestModel):
    """The body of `POST …/graders/validate`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grader": _EXAMPLE}]})

    grader: Grader


class ValidGrader(ResponseModel):
    """A grader that can be used, as it will be read."""

    grader: dict[str, Any]


class RunGrader(RequestModel):
    """The body of `POST …/graders/run`. Early SDKs send `reference_answer` in place of `item`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"grader": _EXAMPLE, "model_sample": "42", "item": {"answer": "42"}}]}
    )

    grader: Grader
    model_sample: str
    item: dict[str, Any] | None = None
    reference_answer: Any = None

    def facts(self) -> dict[str, Any]:
        """What templates call `item`."""
        older = {} if self.reference_answer is None else {"reference_answer": self.reference_answer}
        return older | (self.item or {})


class GraderErrors(ResponseModel):
    """What went wrong; all false when nothing did."""

    formula_parse_error: bool
    sample_parse_error: bool
    truncated_observation_error: bool
    unresponsive_reward_error: bool
    invalid_variable_error: bool
    other_error: bool
    python_grader_server_error: bool
    python_grader_server_error_type: str | None
    python_grader_runtime_error: bool
    python_grader_runtime_error_details: str | None
    model_grader_server_error: bool
    model_grader_refusal_error: bool
    model_grader_parse_error: bool
    model_grader_server_error_details: str | None

    @classmethod
    def of(cls, grade: Grade) -> Self:
        """The wire form of a grade's flags; the reason goes with the flag that has a place for it."""
        raised = {str(flag): True for flag in grade.flags}
        names = [name for name, kind in cls.model_fields.items() if kind.annotation is bool]
        why = grade.failed
        return cls.model_validate(
            {name: raised.get(name, False) for name in names}
            | {
                "python_grader_server_error_type": "server_error" if Flag.PYTHON_SERVER in grade.flags else None,
                "python_grader_runtime_error_details": why if Flag.PYTHON_RUNTIME in grade.flags else None,
                "model_grader_server_error_details": why if Flag.JUDGE_SERVER in grade.flags else None,
            }
        )


class GraderMetadata(ResponseModel):
    """How a grading went."""

    name: str
    type: str
    errors: GraderErrors
    execution_time: float
    scores: dict[str, float]
    token_usage: int | None
    sampled_model_name: str | None


class GraderRun(ResponseModel):
    """What the answer is worth."""

    reward: float
    metadata: GraderMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, dict[str, int]]
