"""Every kind of grader through the public door, and the descriptions that are refused."""

import json

import pytest

from rootstock.errors import InvalidRequest, InvalidType, InvalidValue, JudgeUnavailable, MissingParameter
from rootstock.grading import Flag, Sample, compile_grader

AT = "method.reinforcement.grader"


class Answers:
    """A judge whose answers are given; keeps what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def ask(self, model, messages, sampling, schema):
        self.asked.append((model, messages, sampling, schema))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def check(operation="eq", text="{{ sample.output_text }}", reference="{{ item.answer }}"):
    return {"type": "string_check", "name": "n", "input": text, "reference": reference, "operation": operation}


def similar(metric, **more):
    texts = {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}
    return {"type": "text_similarity", "name": "n", "evaluation_metric": metric, **texts, **more}


def scored(**more):
    messages = [{"role": "user", "content": "Rate {{ sample.output_text }}"}]
    return {"type": "score_model", "name": "n", "model": "judge", "input": messages, **more}


def labelled(**more):
    return scored() | {"type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"], **more}


def reward(spec, text, answer):
    return compile_grader(spec).grade({"answer": answer}, Sample.of(text), None).reward


@pytest.mark.parametrize(
    ("operation", "text", "reference", "expected"),
    [
        *(("eq", "Paris", "Paris", 1), ("eq", "paris", "Paris", 0), ("ne", "a", "b", 1), ("neq", "a", "a", 0)),
        *(("like", "in Paris.", "Paris", 1), ("like", "in paris.", "Paris", 0), ("ilike", "in PARIS.", "pariS", 1)),
        *(("ilike", "Paris", "in Paris", 0), ("ilike", "STRASSE", "straße", 1)),
    ],
)
def test_string_check(operation, text, reference, expected):
    grade = compile_grader(check(operation)).grade({"answer": reference}, Sample.of(text), None)
    assert (grade.reward, grade.passed, grade.failed) == (expected, bool(expected), None)


def test_text_similarity_passes_from_its_threshold_on():
    assert reward(similar("fuzzy_match"), "abcd", "abce") == pytest.approx(0.75)
    for threshold, passed in ((0.75, True), (0.76, False), (None, None)):
        grader = compile_grader(similar("fuzzy_match", pass_threshold=threshold))
        assert grader.grade({"answer": "abce"}, Sample.of("abcd"), None).passed is passed


def test_a_score_model_is_asked_for_json_with_its_messages_filled_in():
    messages = [
        {"role": "developer", "content": {"type": "input_text", "text": "You grade {{ item.topic }}."}},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "Q"}, {"type": "text", "text": "{{sample.output_text}}"}],
        },
    ]
    sampling = {"temperature": 0.0, "max_completions_tokens": 99, "seed": 7, "top_p": None}
    judge = Answers(json.dumps({"steps": [{"description": "d", "conclusion": "c"}], "result": 0.75}))
    grade = compile_grader(scored(input=messages, sampling_params=sampling)).grade(
        {"topic": "sums"}, Sample.of("4"), judge
    )
    assert (grade.reward, grade.failed, grade.passed) == (0.75, None, None)
    [(model, asked, sent, schema)] = judge.asked
    assert model == "judge"
    assert sent == {"temperature": 0.0, "max_completion_tokens": 99, "seed": 7}
    assert asked[0] == {"role": "system", "content": "You grade sums."}
    assert asked[1]["role"] == "user" and asked[1]["content"].startswith("Q\n4\n\nAnswer with one JSON object")
    assert "a number from 0 to 1" in asked[1]["content"]
    assert list(schema["properties"]) == ["steps", "result"] and schema["properties"]["result"] == {"type": "number"}


def test_a_judge_whose_last_message_is_not_the_users_is_asked_in_one():
    judge = Answers('{"steps": [], "result": 1}')
    compile_grader(scored(input=[{"role": "system", "content": "Grade."}])).grade({}, Sample.of("x"), judge)
    assert [message["role"] for message in judge.asked[0][1]] == ["system", "user"]


@pytest.mark.parametrize(
    ("given", "limits", "expected"), [(7, [1, 5], 5), (-1, [1, 5], 1), (3, [1, 5], 3), (2, None, 1)]
)
def test_a_score_is_moved_into_its_range_and_not_scaled(given, limits, expected):
    judge = Answers(json.dumps({"steps": [], "result": given}))
    assert compile_grader(scored(range=limits)).grade({}, Sample.of("x"), judge).reward == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "0.5",
        "no",
        '{"result": "0.5"}',
        '{"result": true}',
        '{"steps": []}',
        '{"result": NaN}',
        "[" * 100000,
        '{"result": 1' + "0" * 400 + "}",
        '{"result": null}',
    ],
)
def test_an_answer_without_a_number_is_worth_nothing(answer):
    grade = compile_grader(scored(range=[1, 5], pass_threshold=3)).grade({}, Sample.of("x"), Answers(answer))
    assert (grade.reward, grade.passed, set(grade.flags)) == (0, False, {Flag.JUDGE_PARSE})
    assert grade.failed


@pytest.mark.parametrize("judge", [None, Answers(JudgeUnavailable("The model 'judge' is away."))])
@pytest.mark.parametrize("spec", [scored(), labelled()])
def test_a_judge_that_is_away_fails_the_grade(spec, judge):
    grade = compile_grader(spec).grade({}, Sample.of("x"), judge)
    assert (grade.reward, set(grade.flags)) == (0, {Flag.JUDGE_SERVER})
    assert grade.failed and "judge" in grade.failed


@pytest.mark.parametrize(("label", "expected"), [("good", 1), ("bad", 0)])
def test_label_model(label, expected):
    judge = Answers(json.dumps({"steps": [], "result": label}))
    grade = compile_grader(labelled()).grade({}, Sample.of("x"), judge)
    assert (grade.reward, grade.passed, grade.failed) == (expected, bool(expected), None)
    assert judge.asked[0][3]["properties"]["result"] == {"type": "string", "enum": ["good", "bad"]}


@pytest.mark.parametrize("answer", ['{"result": "fine"}', '{"result": 1}', '{"result": ["good"]}', "good"])
def test_a_label_of_its_own_is_worth_nothing(answer):
    assert compile_grader(labelled()).grade({}, Sample.of("x"), Answers(answer)).flags == {Flag.JUDGE_PARSE}


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("{{ sample.output_json.a }}", "{{ item.answer }}", True),
        ("{{ sample.output_tools[0].name }}", "{{ item.answer }}", True),
        ("{{ sample.output_text }}", "{{ item.absent }}", False),
    ],
)
@pytest.mark.parametrize("answer", ["no JSON", '{"b": 1}'])
def test_a_failure_tells_whether_another_answer_could_have_been_graded(text, reference, expected, answer):
    spec = check(text=text, reference=reference)
    grade = compile_grader(spec).grade({"answer": "1"}, Sample.of(answer), None)
    assert grade.failed is not None and grade.wrong_form is expected
    for other, whole in ((check(), expected), (check(reference="{{ item.absent }}"), False)):
        both = {"type": "multi", "graders": {"a": spec, "b": other}, "calculate_output": "a + b"}
        assert compile_grader(both).grade({"answer": "1"}, Sample.of(answer), None).wrong_form is whole
    assert not compile_grader(check()).grade({"answer": "1"}, Sample.of(answer), None).wrong_form


def test_multi_asks_every_kind():
    graders = {"same": check(), "like": similar("rouge_1"), "score": scored(range=[0, 10])}
    spec = {"type": "multi", "name": "all", "graders": graders, "calculate_output": "(same + like) / 2 + score / 10"}
    judge = Answers('{"steps": [], "result": 5}')
    grade = compile_grader(spec).grade({"answer": "a b"}, Sample.of("a b"), judge)
    assert grade.reward == 1.5
    assert grade.sub_rewards == {"same": 1, "like": 1, "score": 5}


@pytest.mark.parametrize(
    ("spec", "error", "place"),
    [
        (None, InvalidType, AT),
        ({}, MissingParameter, f"{AT}.type"),
        ({"type": "exact"}, InvalidValue, f"{AT}.type"),
        ({"type": 1}, InvalidType, f"{AT}.type"),
        (check() | {"input": 1}, InvalidType, f"{AT}.input"),
        (check() | {"name": None}, MissingParameter, f"{AT}.name"),
        (check("contains"), InvalidValue, f"{AT}.operation"),
        (similar("cosine"), InvalidValue, f"{AT}.evaluation_metric"),
        (similar("meteor"), InvalidValue, f"{AT}.evaluation_metric"),
        (similar("rouge_9"), InvalidValue, f"{AT}.evaluation_metric"),
        (similar("bleu", pass_threshold=float("nan")), InvalidType, f"{AT}.pass_threshold"),
        (scored(model=None), MissingParameter, f"{AT}.model"),
        (scored(input=[]), InvalidType, f"{AT}.input"),
        (scored(input=["x"]), InvalidType, f"{AT}.input[0]"),
        (scored(input=[{"role": "tool", "content": "x"}]), InvalidValue, f"{AT}.input[0].role"),
        (scored(input=[{"role": "user", "content": "{{ x }}"}]), InvalidValue, f"{AT}.input[0].content"),
        (scored(input=[{"role": "user", "content": [{"text": "{{"}]}]), InvalidValue, f"{AT}.input[0].content[0].text"),
        (scored(input=[{"role": "user", "content": [1]}]), InvalidType, f"{AT}.input[0].content"),
        (scored(range=[1, 1]), InvalidValue, f"{AT}.range"),
        (scored(range=[1]), InvalidValue, f"{AT}.range"),
        (scored(range="01"), InvalidValue, f"{AT}.range"),
        (scored(sampling_params={"top_k": 1}), InvalidRequest, f"{AT}.sampling_params.top_k"),
        (labelled(labels=[]), InvalidType, f"{AT}.labels"),
        (labelled(passing_labels=["fine"]), InvalidValue, f"{AT}.passing_labels"),
        ({"type": "multi", "calculate_output": "a"}, MissingParameter, f"{AT}.graders"),
        ({"type": "multi", "graders": {}, "calculate_output": "1"}, InvalidValue, f"{AT}.graders"),
        ({"type": "multi", "graders": 1, "calculate_output": "1"}, InvalidType, f"{AT}.graders"),
        ({"type": "multi", "graders": {"a": check()}}, MissingParameter, f"{AT}.calculate_output"),
        (
            {"type": "multi", "graders": {"a": check("x")}, "calculate_output": "a"},
            InvalidValue,
            f"{AT}.graders.a.operation",
        ),
        (
            {"type": "multi", "graders": [{"type": "multi"}], "calculate_output": "a"},
            InvalidValue,
            f"{AT}.graders[0].type",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(spec, error, place):
    with pytest.raises(error) as refused:
        compile_grader(spec)
    assert refused.value.param == place
    assert refused.value.status == 400 and refused.value.message
