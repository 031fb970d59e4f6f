"""Metrics: which one is picked from what the right answers look like, and what answers are worth by it."""

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.datasets.examples import read_examples
from rootstock.release import baseline, held_out, metrics

TICKETS = [json.dumps({"kind": kind, "refund": kind == "billing", "order": None}) for kind in ("billing", "login") * 5]


def test_json_answers_are_scored_field_by_field_once_they_have_the_shape():
    metric = metrics.pick([*TICKETS, json.dumps({"kind": "login", "refund": False, "order": "A-1"})])
    assert metric.name == "json_fields" and metric.schema is not None
    assert metric.schema["properties"]["order"] == {"type": ["null", "string"]}
    right = TICKETS[0]
    assert metric.score(" " + right, right) == 1.0
    assert metric.score('{"order":null,"refund":true,"kind":"login"}', right) == pytest.approx(2 / 3)
    for broken in ("billing", right[:-1], "", '{"kind":"billing"}', right[:-1] + ', "more": 1}', '{"kind":1}', "[]"):
        assert metric.score(broken, right) == 0.0 and metric.valid(broken) is False
    assert metric.score('{"kind":"billing","refund":1,"order":null}', right) == 0.0, "1 is not true"
    assert metric.valid('{"kind":"anything","refund":true,"order":null}')


def test_lists_and_nested_objects_are_compared_place_by_place():
    metric = metrics.pick(['{"a": {"b": [1, 2]}, "c": 1}', '{"a": {"b": []}, "c": 1.5}'])
    assert metric.score('{"a": {"b": [1, 3]}, "c": 1.0}', '{"a": {"b": [1, 2]}, "c": 1}') == pytest.approx(2 / 3)
    assert metric.score('{"a": {"b": [1]}, "c": 1}', '{"a": {"b": [1, 2]}, "c": 1}') == pytest.approx(2 / 3)
    assert metric.score('{"a": {"b": []}, "c": 2}', '{"a": {"b": []}, "c": 2}') == 1.0


def test_labels_short_answers_and_texts():
    labels = metrics.pick(["Positive", "negative", "neutral"] * 3)
    assert (labels.name, labels.labels) == ("label_accuracy", ("negative", "neutral", "positive"))
    assert labels.score(" positive.\n", "Positive") == 1.0 and labels.score("not positive", "positive") == 0.0
    assert metrics.same("-5", "5") == metrics.same(".5", "5") == 0.0
    assert metrics.pick([f"ORDER-{n}" for n in range(30)]).name == "exact_match"
    assert metrics.pick(["yes", "no"]).name == "exact_match", "too few of each to be called labels"
    texts = metrics.pick([f"Dear customer {n}, your parcel {n} is on its way and comes tomorrow." for n in range(30)])
    assert (
        texts.name == "text_similarity" and texts.score("abcd", "abcd") == 1.0 and 0 < texts.score("abxd", "abcd") < 1
    )
    with pytest.raises(ValueError, match="no answer"):
        metrics.pick([])


@given(st.lists(st.text(max_size=80), min_size=1, max_size=40), st.text(max_size=80))
def test_whatever_the_data_a_score_is_between_0_and_1_and_the_right_answer_gets_most(references: list[str], other: str):
    metric = metrics.pick(references)
    for reference in references:
        assert 0.0 <= metric.score(other, reference) <= metric.score(reference, reference) == 1.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), JSON, min_size=1, max_size=3), min_size=1, max_size=8))
def test_every_json_answer_is_of_the_shape_that_is_inferred_from_all(values: list[dict[str, object]]):
    texts = [json.dumps(value) for value in values]
    metric = metrics.pick(texts)
    assert metric.name == "json_fields"
    assert all(metric.score(text, text) == 1.0 for text in texts)
    always = baseline.constant(metric, texts)
    assert statistics.fmean(metric.score(always, text) for text in texts) <= 1.0


def test_macro_f1_is_scikit_learn_s():
    wanted = ["a", "a", "a", "b", "b", "c"]
    got = ["a", "a", "b", "b", "x", "a"]
    # sklearn.metrics.f1_score(wanted, got, labels=["a", "b", "c"], average="macro") == 0.3888…
    assert metrics.macro_f1(got, wanted) == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 0) / 3)


def test_the_constant_answer_is_the_best_that_knows_no_question():
    references = [json.dumps({"a": n % 3 == 0, "b": "x" if n % 4 else "y"}) for n in range(40)]
    metric = metrics.pick(references)
    assert json.loads(baseline.constant(metric, references)) == {"a": False, "b": "x"}
    labels = ["spam"] * 3 + ["ham"] * 7
    assert baseline.constant(metrics.pick(labels), labels) == "ham"
    texts = ["the parcel is on its way to you, dear customer of ours"] * 5 + ["something else altogether"] * 2
    assert baseline.constant(metrics.pick(texts), texts) == texts[0]


def line(**row: object) -> bytes:
    return json.dumps(row).encode()


def test_a_question_ends_before_the_last_answer_that_is_learned():
    (talk,) = read_examples(
        [
            line(
                messages=[
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": "A?"},
                    {"role": "assistant", "content": "1", "weight": 0},
                    {"role": "user", "content": "B?"},
                    {"role": "assistant", "content": "2"},
                    {"role": "user", "content": "thanks"},
                    {"role": "assistant", "content": "bye", "weight": 0},
                ]
            )
        ]
    )
    asked = held_out.question(talk)
    assert asked is not None and asked.messages is not None
    assert (asked.reference, asked.shown, len(asked.messages)) == ("2", "B?", 4)
    assert all("weight" not in message for message in asked.messages)
    shot = held_out.Question(1, "x", ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "C?"}))
    told = held_out.prompted(asked, [shot]).messages
    assert told is not None
    assert [message["content"] for message in told] == ["Be kind.", "C?", "x", "A?", "1", "B?"]


def test_calls_preferences_and_plain_prompts_are_questions_too():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}
    (calls,) = read_examples(
        [line(messages=[{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}])]
    )
    asked = held_out.question(calls)
    assert asked is not None and asked.reference == '[{"arguments": {"a": 2, "b": 1}, "name": "f"}]'
    (prompt,) = read_examples([line(prompt="2+2=", completion=" 4")])
    plain = held_out.question(prompt)
    assert plain is not None and (plain.prompt, plain.reference) == ("2+2=", "4")
    again = held_out.prompted(plain, [plain])
    assert again.prompt == "2+2= 4\n\n2+2="
    (preference,) = read_examples(
        [
            line(
                input={"messages": [{"role": "user", "content": "?"}]},
                preferred_output=[{"role": "assistant", "content": "good"}],
                non_preferred_output=[{"role": "assistant", "content": "bad"}],
            )
        ]
    )
    preferred = held_out.question(preference)
    assert preferred is not None and preferred.reference == "good"
