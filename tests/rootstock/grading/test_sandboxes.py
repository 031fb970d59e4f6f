"""What a Python grader's `grade` may return, and what is said where it returns nothing: the same in both sandboxes."""

import time

import pytest

from rootstock.grading import Flag, PythonRunner, Sample, compile_grader
from tests.rootstock.grading.conftest import graded


def test_it_sees_the_item_and_every_form_of_the_sample(either):
    body = """return int(
        sample == {"output_text": '{"a": 1}', "output_json": {"a": 1}, "output_tools": [{"id": "t"}],
                   "choices": [{"index": 0}]}
        and item == {"b": ["\\u00e9\\ud800", None, 0.5]})"""
    assert graded(either, body, {"b": ["é\ud800", None, 0.5]}, '{"a": 1}').reward == 1


@pytest.mark.parametrize(
    ("value", "reward"),
    [
        ("0.25", 0.25),
        ("-3", -3),
        ("__import__('fractions').Fraction(1, 2)", 0.5),
        ("__import__('decimal').Decimal('0.5')", 0.5),
    ],
)
def test_numbers_are_rewards(either, value, reward):
    grade = graded(either, f"return {value}")
    assert (grade.reward, grade.failed, grade.passed) == (reward, None, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return None", "NoneType"),
        ("return '1'", "str"),
        ("return True", "bool"),
        ("return [1]", "list"),
        ("return 1j", "complex"),
        ("return float('nan')", "nan"),
        ("return float('inf')", "inf"),
        ("return 10 ** 400", "OverflowError"),
        ("return 1 / 0", "ZeroDivisionError: division by zero (line 3)"),
        ("return item['missing']", "KeyError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return grade(sample, item)", "RecursionError"),
    ],
)
def test_what_gives_no_number_fails_and_says_why(either, body, reason):
    grade = graded(either, body)
    assert (grade.reward, set(grade.flags)) == (0, {Flag.PYTHON_RUNTIME})
    assert grade.failed and reason in grade.failed
    assert graded(either, "return 0.5").reward == 0.5


def test_a_source_that_fails_when_loaded_says_so(either):
    grade = graded(either, "return 1", head="import no_such_module\ndef grade(sample, item):\n    ")
    assert grade.failed and "No module named 'no_such_module' (line 1)" in grade.failed


@pytest.mark.parametrize("body", ["while True: pass", "import time; time.sleep(60)"])
def test_a_call_ends_when_its_time_is_over(confined, body):
    with PythonRunner(seconds=2, children=1, sandbox=confined) as hasty:
        assert graded(hasty, "return 1").reward == 1
        started = time.monotonic()
        assert graded(hasty, body).failed == "The source took longer than 2 seconds."
        assert time.monotonic() - started < 30
        assert graded(hasty, "return 1").reward == 1


@pytest.mark.parametrize(
    "source",
    [
        "def grade(sample, item, more=1, *rest, key=2, **others): return 1",
        "def grade(*both): return 1",
        "grade = lambda sample, item: 1",
        "try:\n    import x_y_z\nexcept ImportError:\n    def grade(sample, item, /): return 1",
        "import re\nif True:\n    def grade(sample, item): return int(bool(re.match('\\d', '1')))",
    ],
)
def test_other_ways_to_define_grade(either, source):
    assert (
        compile_grader({"type": "python", "source": source}, python=either).grade({}, Sample.of(""), None).reward == 1
    )
