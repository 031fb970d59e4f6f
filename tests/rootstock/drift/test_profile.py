"""What becomes of a training set: its calls, its profile, the bytes of it; the cluster that is shown."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.datasets import read_examples
from rootstock.drift.clusters import newest
from rootstock.drift.features import Rarity, run_ids, word_ids, words
from rootstock.drift.profile import Profile
from rootstock.drift.sample import MAX_CHARS, MAX_TURNS, Sample, taught
from tests.rootstock.drift.traffic import SORTS, drawn


def calls_of(row: dict[str, Any]) -> list[Sample]:
    (example,) = read_examples([json.dumps(row).encode()])
    return taught(example)


def test_each_answer_that_is_trained_on_is_a_call():
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1", "weight": 0},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "2"},
    ]
    assert calls_of({"messages": talk}) == [Sample("two", "Be brief.", "2")]
    many = [{"role": role, "content": str(n)} for n in range(20) for role in ("user", "assistant")]
    assert [call.prompt for call in calls_of({"messages": many})] == [str(n) for n in range(20)][-MAX_TURNS:]


def test_every_format_has_its_calls():
    call = {"id": "c", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
    asked = [{"role": "user", "content": "money"}]
    tool = [{"type": "function", "function": {"name": "refund", "parameters": {"type": "object"}}}]
    (found,) = calls_of({"messages": [*asked, {"role": "assistant", "tool_calls": [call]}], "tools": tool})
    assert found.calls == ("refund",)
    assert calls_of({"prompt": "a", "completion": "b"}) == [Sample("a", "", "b")]
    preference = {
        "input": {"messages": asked},
        "preferred_output": [{"role": "assistant", "content": "yes"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
    assert calls_of(preference) == [Sample("money", "", "yes")]
    assert calls_of({"messages": asked, "answer": "42"}) == [Sample("money", "", None)]


def test_long_texts_are_cut_and_their_shape_is_not_judged():
    call = Sample.of("x" * 9999, "", "{" + " " * 9999)
    assert (len(call.prompt), len(call.answer or ""), call.cut) == (MAX_CHARS, MAX_CHARS, True)
    profile = Profile.of([[each] for each in drawn("json", 1, 60)])
    (place,) = [place for place, event in enumerate(profile.events) if event.kind == "schema"]
    assert profile.marks(call)[place] == -1


@pytest.mark.parametrize("sort", list(SORTS))
def test_a_profile_comes_back_from_its_bytes(sort: str):
    profile = Profile.of([[call] for call in drawn(sort, 1, 80)])
    again = Profile.unpack(profile.pack())
    assert again.events == profile.events
    for call in drawn(sort, 2, 20, new=0.5):
        assert np.array_equal(again.marks(call), profile.marks(call))


def test_too_few_examples_make_no_profile():
    with pytest.raises(ValueError, match="50 can"):
        Profile.of([[call] for call in drawn("labels", 1, 49)])


@pytest.mark.parametrize("text", ["", "  \n", "\ud800", "日本語のテキスト", "a", "\x00" * 10, "😀" * 5000])
def test_any_text_is_looked_at(text: str):
    profile = Profile.of([[Sample.of(text, text, text)]] * 60)
    assert len(profile.marks(Sample.of(text, "", text))) == len(profile.events)


@given(st.text(max_size=200))
def test_buckets_are_in_order_and_once(text: str):
    for found in (word_ids(text), run_ids(text)):
        assert np.array_equal(found, np.unique(found)) and (found >= 0).all()


def test_numbers_are_no_news_and_signs_are_words_where_there_are_no_spaces():
    assert words("Order  KT-123") == words("order kt-987") and len(words("退款申请")) == 4


def test_a_text_of_the_set_scores_as_one_that_the_set_has_not_seen():
    texts = [word_ids(text) for text in ("red apple", "red pear", "red plum")]
    own = Rarity.of(texts).unusual(texts[0], without=texts[0])
    assert own == pytest.approx(Rarity.of(texts[1:]).unusual(texts[0]))


def test_the_new_cluster_comes_first_and_is_named():
    usual = [call.prompt for call in drawn("tickets", 1, 200)]
    rarity = Rarity.of([word_ids(prompt) for prompt in usual])
    asked = [usual[0], "How do I cook goulash?", "Which wine for goulash?", usual[1], "Can goulash be frozen?"]
    found = newest(asked, rarity)
    assert sorted(found.order[:3]) == [1, 2, 4] and found.alike == 3 and "goulash" in found.terms
    assert sorted(found.order) == [0, 1, 2, 3, 4] and newest([], rarity).terms == []
