"""Templates through the grader that compares two of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.errors import InvalidValue
from rootstock.grading import Flag, Sample, compile_grader
from rootstock.grading.templates import Path, TemplateError, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"\A[\w$@-]{1,8}\Z")
quoted_keys = st.text(max_size=8).filter(lambda key: '"' not in key and "}}" not in key)


def shown(template, item, text=""):
    return parse(template).render(item, Sample.of(text))


def check(text, reference="x"):
    return {"type": "string_check", "name": "same", "input": text, "reference": reference, "operation": "eq"}


@given(st.text().filter(lambda text: "{{" not in text))
def test_a_text_without_holes_stays_as_it_is(text):
    assert shown(text, {}) == text


@given(
    st.lists(st.tuples(st.sampled_from(["name", "quoted", "index"]), names, quoted_keys), min_size=1), values, st.data()
)
def test_a_path_reaches_what_was_put_there(steps, value, data):
    spaces = st.sampled_from(["", " ", "\n ", "\t"])
    steps[0] = ("name" if steps[0][0] == "index" else steps[0][0], *steps[0][1:])
    path, item = "item", value
    for kind, name, key in steps:
        path += {"name": f".{name}", "quoted": f'["{key}"]', "index": "[1]"}[kind]
    for kind, name, key in reversed(steps):
        item = {"name": {name: item}, "quoted": {key: item}, "index": ["other", item]}[kind]
    hole = "{{" + data.draw(spaces) + path + data.draw(spaces) + "}}"
    expected = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    assert shown(f"<{hole}|{hole}>", item) == f"<{expected}|{expected}>"


@given(st.text())
def test_any_text_is_a_template_or_refused_with_a_reason(text):
    for written in (text, "{{" + text + "}}", "{{ item." + text + "}}", "{{ sample." + text):
        try:
            template = parse(written)
        except TemplateError as refused:
            reason = str(refused)
            assert reason.endswith(".")
        else:
            assert all(part.steps for part in template.parts if isinstance(part, Path))


@given(st.text())
def test_what_a_value_holds_is_never_read_as_a_template(value):
    assert shown("{{ item.a }}", {"a": "{{ item.b }}" + value}) == "{{ item.b }}" + value


@pytest.mark.parametrize(
    "text",
    [
        *("{{ reference }}", "{{ items.a }}", "{{ Item.a }}", "{{}}", "{{ item }}", "{{ sample }}", "{{ item. }}"),
        *(
            "{{ item.a | upper }}",
            "{{ item.a + 1 }}",
            "{{ item.a b }}",
            "{{ item[-1] }}",
            "{{ item.a() }}",
            "{{ item.a",
        ),
        *("{{ sample.text }}", "{{ item['a\" }}", "{{ {{ item.a }} }}", "{{ item.a..b }}", "{% if item.a %}{{"),
    ],
)
def test_what_is_no_path_is_refused_with_its_place(text):
    with pytest.raises(InvalidValue) as refused:
        compile_grader(check("ok", text))
    assert refused.value.param == "method.reinforcement.grader.reference"
    assert refused.value.body()["error"]["code"] == "invalid_value"


def test_the_sample_has_text_json_tools_and_choices():
    tools = [{"function": {"name": "add"}}]
    sample = Sample.of('{"answer": [1, {"b": null}]}', tools=tools, choices=[{"index": 0}])
    text = (
        "{{sample.output_json.answer[1].b}} {{ sample.output_json.answer }} {{sample.output_text}} "
        "{{ sample.output_tools[0].function.name }} {{ sample.choices[0] }}"
    )
    wanted = 'null [1, {"b": null}] {"answer": [1, {"b": null}]} add {"index": 0}'
    assert compile_grader(check(text, wanted)).grade({}, sample, None).reward == 1


@pytest.mark.parametrize(
    "path",
    ["item.b", "item.a.b", "item.a[0]", "item.list[2]", "item.list.x", "item.list[0].x", "sample.output_tools[0]"],
)
def test_a_path_that_leads_nowhere_fails_the_grade_and_is_named(path):
    grade = compile_grader(check("{{ " + path + " }}")).grade({"a": "text", "list": [1, 2]}, Sample.of("x"), None)
    assert (grade.reward, grade.passed, set(grade.flags)) == (0, False, {Flag.VARIABLE})
    assert grade.failed and path in grade.failed


def test_json_of_a_sample_that_is_none_fails_the_grade():
    grader = compile_grader(check("{{ sample.output_json.a }}"))
    for text in ("no", "", "NaN", '{"a": Infinity}', "[" * 100_000, "1" * 10_000):
        grade = grader.grade({}, Sample.of(text), None)
        assert (grade.reward, set(grade.flags)) == (0, {Flag.SAMPLE})
    assert grader.grade({}, Sample.of("[]"), None).flags == {Flag.VARIABLE}
