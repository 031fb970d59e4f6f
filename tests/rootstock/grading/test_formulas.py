"""The formulas of `multi` against Python's own arithmetic."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.errors import InvalidValue
from rootstock.grading import Flag, Sample, compile_grader
from rootstock.grading.formulas import FUNCTIONS, FormulaError, parse

SCORES = {"a": 0.25, "b": 1.0, "c": 3.0, "min": 2.0, "is": 0.5, "_x9": 7.0}
# `^` is written with brackets around it: Python's `**` binds alike, but turns a negative base's root complex.
atoms = st.sampled_from(["0.5", "2", "1e1", ".25", "3.", "a", "b", "c", "_x9"])


def _grown(inner):
    two = st.tuples(inner, st.sampled_from([" + ", "-", "*", " / "]), inner).map("".join)
    called = st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner).map(lambda pair: f"{pair[0]}({pair[1]})")
    several = st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}( {t[1]} , {t[2]} )")
    power = st.tuples(inner, st.sampled_from(["2", "0", "-1", "3^2"])).map(lambda pair: f"({pair[0]})^{pair[1]}")
    return two | called | several | power | inner.map(lambda one: f"-{one}") | inner.map(lambda one: f"({one})")


@given(st.recursive(atoms, _grown, max_leaves=12))
def test_as_python_computes_it(text):
    known = {"min": lambda *x: min(x), "max": lambda *x: max(x), "abs": abs, "floor": math.floor, "ceil": math.ceil}
    known |= {"exp": math.exp, "sqrt": math.sqrt, "log": math.log}
    try:
        value = parse(text).value(SCORES)
    except (ArithmeticError, ValueError):
        with pytest.raises((ArithmeticError, ValueError)):
            float(eval(text.replace("^", "**"), known, {k: SCORES[k] for k in ("a", "b", "c", "_x9")}))
        return
    if math.isfinite(value):
        expected = float(eval(text.replace("^", "**"), known, {k: SCORES[k] for k in ("a", "b", "c", "_x9")}))
        assert value == pytest.approx(expected, rel=1e-9)


@given(st.text(st.sampled_from("ab1.e+-*/^(), minlog_@'\"[]{}é\n"), max_size=30))
def test_any_text_is_a_formula_or_refused_with_a_reason(text):
    try:
        formula = parse(text)
    except FormulaError as refused:
        reason = str(refused)
        assert reason.endswith(".")
    else:
        with contextlib.suppress(ArithmeticError, ValueError):
            assert isinstance(formula.value(dict.fromkeys(formula.names, 0.5)), float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2^3^2", 512), ("-2^2", -4), ("2^-1", 0.5), ("--a", 0.25), ("1-2-3", -4), ("8/2/2", 2), ("2+3*4^2", 50)),
        *(("min + 1", 3), ("min(min, 1)", 1), ("is * 2", 1), ("max(a)", 0.25), ("log(exp(2))", 2), ("floor(1.7)", 1)),
        *(("+".join(["a"] * 1000), 250), ("a" + "*1" * 1000, 0.25), ("-" * 1000 + "a", 0.25)),
    ],
)
def test_by_hand(text, value):
    assert parse(text).value(SCORES) == pytest.approx(value)


def multi(formula, **graders):
    parts = graders or {"a": check("1"), "b": check("0")}
    return {"type": "multi", "graders": parts, "calculate_output": formula}


def check(text):
    return {"type": "string_check", "name": "n", "input": text, "reference": "1", "operation": "eq"}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a +",
            "a b",
            "(a",
            "a)",
            "a ** b",
            "a % b",
            "a if b else 0",
            "a.b",
            "a[0]",
            "'a'",
            "min()",
            "sqrt(a, b)",
        ),
        *(
            "round(a)",
            "__import__('os')",
            "a = 1",
            "a, b",
            "unknown",
            "(" * 100 + "a" + ")" * 100,
            "^".join(["2"] * 100),
        ),
    ],
)
def test_what_is_no_formula_is_refused_with_its_place(text):
    with pytest.raises(InvalidValue) as refused:
        compile_grader(multi(text), at="grader")
    assert refused.value.param == "grader.calculate_output"


@pytest.mark.parametrize("text", ["1 / b", "sqrt(-a)", "log(b)", "exp(1000)", "10^400", "1e308 * 10 * a", "b^-1"])
def test_a_formula_without_a_value_fails_the_grade(text):
    grade = compile_grader(multi(text)).grade({}, Sample.of(""), None)
    assert (grade.reward, set(grade.flags), grade.sub_rewards) == (0, {Flag.FORMULA}, {"a": 1, "b": 0})
    assert grade.failed and "calculate_output" in grade.failed


def test_the_formula_runs_over_the_sub_rewards():
    grade = compile_grader(multi("0.75 * a + b - 1")).grade({}, Sample.of(""), None)
    assert (grade.reward, grade.failed, grade.passed) == (-0.25, None, None)


def test_one_failed_grader_fails_the_whole():
    # Otherwise "1 - a" would reward a sample for breaking the grader.
    grade = compile_grader(multi("1 - a", a=check("{{ item.x }}"), b=check("1"))).grade({}, Sample.of(""), None)
    assert (grade.reward, grade.sub_rewards, set(grade.flags)) == (0, {"a": 0, "b": 1}, {Flag.VARIABLE})
    assert grade.failed and "a:" in grade.failed and "item.x" in grade.failed


def test_a_list_of_graders_goes_by_their_names():
    parts = [check("1") | {"name": "first"}, check("0") | {"name": "a name with spaces"}]
    spec = {"type": "multi", "graders": parts, "calculate_output": "first"}
    assert compile_grader(spec).grade({}, Sample.of(""), None).sub_rewards == {"first": 1, "a name with spaces": 0}
    with pytest.raises(InvalidValue, match=r"no grader here\. It can name: 'first'"):
        compile_grader(spec | {"calculate_output": "second"})
    with pytest.raises(InvalidValue) as refused:
        compile_grader(spec | {"graders": [parts[0], parts[0]]})
    assert refused.value.param == "method.reinforcement.grader.graders[1].name"
