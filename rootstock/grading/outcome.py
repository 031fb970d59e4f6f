"""What is graded and what comes of it. Plain values; knows no grader."""

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, NoReturn


class Flag(StrEnum):
    """Why a grade failed, under the names that the API uses."""

    FORMULA = "formula_parse_error"  # `calculate_output` gives no finite number for these scores
    SAMPLE = "sample_parse_error"  # JSON is asked of a sample that is not JSON
    VARIABLE = "invalid_variable_error"  # a template names what the item or the sample does not have
    PYTHON_RUNTIME = "python_grader_runtime_error"  # the customer's source raised, hung, died or gave no number
    PYTHON_SERVER = "python_grader_server_error"  # we could not run the source
    JUDGE_SERVER = "model_grader_server_error"  # the model that judges could not be asked
    JUDGE_PARSE = "model_grader_parse_error"  # its answer is not of the form that was asked for
    OTHER = "other_error"


class GradingFailed(Exception):
    """This sample cannot be graded; `flag` says whose doing it is. Ends in a `Grade`, never reaches a caller.

    `wrong_form`: the answer lacks a part that the grader reads, so another answer could have been graded.
    """

    def __init__(self, flag: Flag, message: str, *, wrong_form: bool = False) -> None:
        # A customer's text may hold half a character, which could be neither logged nor sent.
        self.message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(self.message)
        self.flag = flag
        self.wrong_form = wrong_form


@dataclass(frozen=True)
class Grade:
    """What one sample is worth. A failure is worth 0 and says why in `failed`."""

    reward: float
    passed: bool | None = None
    """Whether the sample passes; None where the grader draws no line."""

    failed: str | None = None
    sub_rewards: dict[str, float] = field(default_factory=dict)
    """Name -> reward of each grader inside a `multi`; empty for the others."""

    flags: frozenset[Flag] = frozenset()
    """The kinds of failure behind `failed`."""

    wrong_form: bool = False
    """It failed because the answer lacks a part that the grader reads: the answer's fault, not the grader's."""


@dataclass(frozen=True)
class Sample:
    """What a model answered, in the forms that templates and Python sources may name."""

    output_text: str
    output_tools: list[Any] = field(default_factory=list)
    """The tool calls of the answer, as the chat API writes them."""

    choices: list[Any] = field(default_factory=list)
    given: bool = True
    """False where there is no answer at all: whatever names one fails."""

    @classmethod
    def nothing(cls) -> "Sample":
        """No answer: of things that are graded as they are."""
        return cls("", given=False)

    @classmethod
    def of(cls, text: str, *, tools: list[Any] | None = None, choices: list[Any] | None = None) -> "Sample":
        """A sample of this text, with its tool calls and the choices of the whole answer."""
        return cls(text, list(tools or []), list(choices or []))

    @cached_property
    def _parsed(self) -> tuple[bool, Any]:
        try:
            return True, json.loads(self.output_text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return False, None

    @property
    def is_json(self) -> bool:
        """Whether the text is one JSON value."""
        return self._parsed[0]

    @property
    def output_json(self) -> Any:
        """The text as JSON; None where it is none."""
        return self._parsed[1]

    def as_dict(self) -> dict[str, Any]:
        """The names and values that graders see."""
        if not self.given:
            return {}
        return {
            "output_text": self.output_text,
            "output_json": self.output_json,
            "output_tools": self.output_tools,
            "choices": self.choices,
        }


def finite(value: float, flag: Flag, what: str) -> float:
    """`value`, or `GradingFailed` when no training could use it."""
    if not math.isfinite(value):
        raise GradingFailed(flag, f"{what} is {value}, not a finite number.")
    return float(value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
