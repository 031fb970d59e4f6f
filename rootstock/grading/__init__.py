"""Graders: what a sampled answer is worth, told by the customer's own rule.

`compiling` makes a grader of its description, `graders` holds the kinds, `templates`, `formulas` and `similarity` their
parts, `judging` the questions to a model, `python_runner` the processes in which customers' sources run, `sandbox` what
confines them. Knows nothing about training, HTTP or rows: the caller brings a `Judge` and a `PythonRunner`.

    with open_runner(folder) as python:
        grader = compile_grader(spec, python=python)
        grade = grader.grade(item, Sample.of("42"), judge)
"""

from rootstock.errors import JudgeUnavailable
from rootstock.grading.compiling import compile_grader
from rootstock.grading.graders import Grader
from rootstock.grading.judging import Judge
from rootstock.grading.outcome import Flag, Grade, Sample
from rootstock.grading.python_runner import PythonRunner
from rootstock.grading.sandbox import open_runner

__all__ = [
    "Flag",
    "Grade",
    "Grader",
    "Judge",
    "JudgeUnavailable",
    "PythonRunner",
    "Sample",
    "compile_grader",
    "open_runner",
]
