"""General suites: what ships can be asked and judged, an operator's mistakes are named, answers are judged fairly."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.errors import ConfigurationError
from rootstock.release import suites
from rootstock.release.suites import Question, Suite, built_in, load, scores

TINY = Path("examples/base/rootstock-tiny")


def _question(answer: str, how: suites.How) -> Question:
    return Question(({"role": "user", "content": "?"},), answer, how)


def _line(**changes: object) -> str:
    row = {"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4", "how": "exact"} | changes
    return json.dumps({key: value for key, value in row.items() if value is not None})


def test_what_ships_is_small_and_without_repeats() -> None:
    shipped = built_in()
    assert [suite.name for suite in shipped] == sorted(
        ["arithmetic", "commonsense", "formats", "instructions", "languages", "reading"]
    )
    assert sum(len(suite.questions) for suite in shipped) == 360
    assert len(suites.texts(shipped)) == sum(len(suite.questions) for suite in shipped)


def test_answers_are_short_in_the_tokens_of_a_small_vocabulary() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    for suite in built_in():
        for question in suite.questions:
            if question.how != "regex" and suite.name != "languages":  # a pattern is no answer
                assert len(tokenizer.encode(question.answer).ids) < suites.MAX_ANSWER_TOKENS, question


def test_the_answers_that_are_no_patterns_are_right_by_their_own_rule() -> None:
    for suite in built_in():
        for question in suite.questions:
            if question.how != "regex":
                assert scores(question, question.answer) == 1.0
            assert scores(question, "") == 0.0
            asked = " ".join(message["content"] for message in question.messages)
            assert scores(question, f"You said: {asked}") == 0.0, f"repeating the question answers it: {question}"


@pytest.mark.parametrize(
    ("how", "answer", "text", "right"),
    [
        ("exact", "Bergen", " bergen.\n", True),
        ("exact", "Bergen", '"Bergen".', True),
        ("exact", "Bergen", "The city is Bergen.", False),
        ("exact", "K-20", "K-200", False),
        ("contains", "12", "It is 12.", True),
        ("contains", "12", "It is 128.", False),
        ("contains", "12", "It is 12.5", False),
        ("contains", "5", "It is 12.5", False),
        ("contains", "12", "12", True),
        ("contains", "no", "I know", False),
        ("contains", "agua", "Es Agua!", True),
        ("regex", "puppy|pup", "A Puppy", True),
        ("regex", "puppy|pup", "A cupboard", False),
        ("regex", "(?-i:the sun)", "THE SUN", False),
        ("regex", r"猫\w*|neko", "猫です", True),
        ("json", '{"a":1,"b":2}', ' {"b": 2, "a": 1}\n', True),
        ("json", '{"a":1}', '```json\n{"a": 1}\n```', True),
        ("json", '{"a":1}', '{"a": true}', False),
        ("json", '{"a":1}', '{"a": 1} and more', False),
        ("json", '{"a":1}', "[" * 100_000, False),
    ],
)
def test_answers_are_judged(how: suites.How, answer: str, text: str, right: bool) -> None:
    assert scores(_question(answer, how), text) == float(right)


@given(st.text(), st.sampled_from([question for suite in built_in() for question in suite.questions]))
def test_any_text_is_right_or_wrong(text: str, question: Question) -> None:
    assert scores(question, text) in (0.0, 1.0)


def test_an_operators_folder_adds_suites(tmp_path: Path) -> None:
    (tmp_path / "billing.jsonl").write_text(_line() + "\n\n" + _line(answer='{"a": 1}', how="json") + "\n", "utf-8")
    (tmp_path / "notes.txt").write_text("not a suite", "utf-8")
    (billing,) = load(tmp_path)
    assert (billing.name, len(billing.questions)) == ("billing", 2)
    assert [suite.name for suite in suites.all_of(tmp_path)][-1] == "billing"
    assert suites.all_of(None) == built_in()
    assert isinstance(billing, Suite)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "is not JSON"),
        ("[1]", "the keys messages, answer and how"),
        (_line(how=None), "the keys messages, answer and how"),
        (_line(more=1), "the keys messages, answer and how"),
        (_line(messages=[]), "'messages' is a list"),
        (_line(messages=[{"role": "user", "content": 4}]), "'messages' is a list"),
        (_line(messages=[{"role": "assistant", "content": "4"}]), "is the user's"),
        (_line(how="exactly"), "'how' is one of exact, contains, regex, json"),
        (_line(how=["exact"]), "'how' is one of"),
        (_line(answer=" "), "'answer' is a text"),
        (_line(answer=4), "'answer' is a text"),
        (_line(answer="(", how="regex"), "'answer' is no valid regex"),
        (_line(answer="{", how="json"), "'answer' is no valid json"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "own.jsonl").write_text(f"{_line()}\n{line}\n", "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path)
    assert f"{tmp_path / 'own.jsonl'}, line 2: " in caught.value.message
    assert told in caught.value.message


def test_a_folder_that_holds_no_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no folder"):
        load(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match="holds no"):
        load(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n", "utf-8")
    with pytest.raises(ConfigurationError, match="holds no question"):
        load(tmp_path)
    (tmp_path / "empty.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        load(tmp_path)
    (tmp_path / "empty.jsonl").rename(tmp_path / "reading.jsonl")
    with pytest.raises(ConfigurationError, match="comes with Rootstock"):
        load(tmp_path)
