"""The kinds of grader, ready to grade. Made by `compiling`, which has checked everything that can be known before.

`grade` turns every failure into a `Grade` of 0; what a grader of one kind does is its `score`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from rootstock.grading.formulas import Formula
from rootstock.grading.judging import Judge, Question
from rootstock.grading.outcome import Flag, Grade, GradingFailed, Sample, finite
from rootstock.grading.python_runner import PythonRunner
from rootstock.grading.similarity import METRICS
from rootstock.grading.templates import Template


class Grader(Protocol):
    """What `compile_grader` gives back. May be used by several threads at once."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str:
        """The `type` it was written with."""
        ...

    def grade(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> Grade:
        """What the sample is worth. Never raises for what an item, a sample, a source or a judge did."""
        ...


class _Scores(Protocol):
    def score(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> float: ...


@dataclass(frozen=True)
class Single:
    """A grader with a score of its own."""

    name: str
    kind: str
    pass_threshold: float | None
    """The least reward that passes; None where there is no such line."""

    scores: _Scores

    def grade(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> Grade:
        try:
            reward = self.scores.score(item, sample, judge)
        except GradingFailed as failure:
            passed = None if self.pass_threshold is None else False
            return Grade(0.0, passed, failure.message, flags=frozenset({failure.flag}), wrong_form=failure.wrong_form)
        return Grade(reward, None if self.pass_threshold is None else reward >= self.pass_threshold)


@dataclass(frozen=True)
class Multi:
    """A formula over other graders. Where one of them fails there is nothing to compute: the whole is worth 0."""

    name: str
    graders: dict[str, Single]
    formula: Formula
    pass_threshold: float | None
    kind: str = "multi"

    def grade(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> Grade:
        grades = {name: grader.grade(item, sample, judge) for name, grader in self.graders.items()}
        rewards = {name: grade.reward for name, grade in grades.items()}
        failures = [f"{name}: {grade.failed}" for name, grade in grades.items() if grade.failed is not None]
        flags = frozenset[Flag]().union(*(grade.flags for grade in grades.values()))
        passed = None if self.pass_threshold is None else False
        if failures:
            # One part that cannot work by itself spoils the whole, whatever the answer is like.
            wrong_form = all(grade.wrong_form for grade in grades.values() if grade.failed is not None)
            return Grade(0.0, passed, " ".join(failures), rewards, flags, wrong_form)
        try:
            reward = finite(self.formula.value(rewards), Flag.FORMULA, "The result of 'calculate_output'")
        except (ArithmeticError, ValueError) as error:
            why = f"'calculate_output' has no value for these scores: {error}."
            return Grade(0.0, passed, why, rewards, frozenset({Flag.FORMULA}))
        except GradingFailed as failure:
            return Grade(0.0, passed, failure.message, rewards, frozenset({failure.flag}))
        return Grade(reward, None if self.pass_threshold is None else reward >= self.pass_threshold, None, rewards)


@dataclass(frozen=True)
class StringCheck:
    """1 when the comparison holds, else 0."""

    input: Template
    reference: Template
    operation: str

    def score(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> float:
        text, reference = self.input.render(item, sample), self.reference.render(item, sample)
        match self.operation:
            case "eq":
                return float(text == reference)
            case "ne":
                return float(text != reference)
            case "like":
                return float(reference in text)
            case _:
                return float(reference.casefold() in text.casefold())


@dataclass(frozen=True)
class TextSimilarity:
    """One of `similarity.METRICS`."""

    input: Template
    reference: Template
    metric: str

    def score(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> float:
        return METRICS[self.metric](self.input.render(item, sample), self.reference.render(item, sample))


@dataclass(frozen=True)
class ScoreModel:
    """A model's number, moved into the range; not scaled."""

    question: Question
    lowest: float
    highest: float

    def score(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> float:
        given = self.question.score(item, sample, judge, self.lowest, self.highest)
        return min(max(finite(given, Flag.JUDGE_PARSE, "The model's 'result'"), self.lowest), self.highest)


@dataclass(frozen=True)
class LabelModel:
    """1 when the model chooses a passing label, else 0."""

    question: Question
    labels: tuple[str, ...]
    passing: frozenset[str]

    def score(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> float:
        return float(self.question.label(item, sample, judge, self.labels) in self.passing)


@dataclass(frozen=True)
class Python:
    """What the customer's `grade(sample, item)` returns."""

    source: str
    runner: PythonRunner | None

    def score(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> float:
        if self.runner is None:
            raise GradingFailed(Flag.PYTHON_SERVER, "This process runs no Python graders.")
        return self.runner.call(self.source, sample.as_dict(), item)
