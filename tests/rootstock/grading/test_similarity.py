"""The measures against known values, and ROUGE against rouge-score, whatever the words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from rootstock.grading.similarity import METRICS

NAMES = ["bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]
REFERENCE = [
    (
        "The cat sat on the mat.",
        "The cat is on the mat.",
        [0.488923022, 0.590909091, 0.833333333, 0.6, 0.25, 0, 0, 0.833333333],
    ),
    ("Paris", "Paris", [1, 1, 1, 0, 0, 0, 0, 1]),
    (
        "The capital of France is Paris.",
        "Paris is the capital of France.",
        [0.194413084, 0.409090909, 1, 0.6, 0.5, 0.333333333, 0, 0.666666667],
    ),
    (
        "It is a guide to action which ensures that the military always obeys the commands of the party",
        "It is a guide to action that ensures that the military will forever heed Party commands",
        [0.411803764, 0.439393939, 0.705882353, 0.5, 0.4, 0.285714286, 0.153846154, 0.647058824],
    ),
    (
        "the the the the the the the",
        "the cat is on the mat",
        [0.0392814651, 0.0909090909, 0.307692308, 0, 0, 0, 0, 0.307692308],
    ),
    ("a b c", "x y z", [0, 0, 0, 0, 0, 0, 0, 0]),
    (
        "Don't panic, it's 3.5 km (or 2.2 miles)!",
        "do not panic: it is 3.5 km, or about 2.2 miles",
        [0.280515503, 0.342857143, 0.72, 0.52173913, 0.285714286, 0.105263158, 0, 0.72],
    ),
    (
        "one two three four five six",
        "one two three four five six seven eight",
        [0.716531311, 0.692307692, 0.857142857, 0.833333333, 0.8, 0.75, 0.666666667, 0.857142857],
    ),
]

texts = st.text(st.sampled_from("ab cd.,é漢 \n"), max_size=40)


@pytest.mark.parametrize(("text", "reference", "expected"), REFERENCE)
def test_equal_to_the_reference_implementations(text, reference, expected):
    assert [METRICS[name](text, reference) for name in NAMES] == pytest.approx(expected, abs=1e-8)


words = st.lists(st.sampled_from(["a", "be", "The", "the", "x7", "(", ",", "c.d"]), max_size=12).map(" ".join)


@given(words, words)
def test_rouge_is_that_of_the_package(text, reference):
    names = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rouge5": "rouge_5", "rougeL": "rouge_l"}
    theirs = RougeScorer(list(names)).score(reference, text)
    assert {ours: METRICS[ours](text, reference) for ours in names.values()} == pytest.approx(
        {ours: theirs[name].fmeasure for name, ours in names.items()}
    )


@pytest.mark.parametrize("name", sorted(METRICS))
@given(texts, texts)
def test_stays_between_0_and_1(name, text, reference):
    assert 0 <= METRICS[name](text, reference) <= 1


@pytest.mark.parametrize("name", sorted(METRICS))
def test_equal_texts_score_1_and_unlike_ones_0(name):
    text = "one two three four five six"
    assert METRICS[name](text, text) == pytest.approx(1)
    assert METRICS[name]("äöü", "xyz 123") == 0


def test_letters_of_other_scripts_are_words():
    assert METRICS["rouge_1"]("Пари́ж столица", "столица") > 0
    assert METRICS["rouge_l"]("köln", "KÖLN") == 1


def test_listing_every_candidate_does_not_pay():
    assert METRICS["fuzzy_match"]("Paris, London, Rome, Berlin, Madrid", "Paris") < 0.3
