"""Checks the example fine-tuning data and its scoring function. It knows nothing about models."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import pytest

from examples.base import corpus
from examples.base.reserved import RESERVED_WORDS
from examples.data import build
from examples.data import wordings as w
from examples.data.score import score

DATA = Path(build.__file__).parent
PARTS = tuple(build.SIZES)


def rows(part: str) -> list[list[dict[str, str]]]:
    """The conversations of a committed file."""
    lines = (DATA / f"tickets-{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def test_build_reproduces_the_committed_files(tmp_path: Path) -> None:
    build.write(tmp_path)
    for part in PARTS:
        name = f"tickets-{part}.jsonl"
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_another_seed_gives_other_tickets() -> None:
    assert build.build(1)["train"] != build.build(0)["train"]


@pytest.mark.parametrize("part", PARTS)
def test_rows_are_chats_with_the_documented_answer(part: str) -> None:
    assert len(rows(part)) == build.SIZES[part]
    for messages in rows(part):
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        assert messages[0]["content"] == build.SYSTEM_PROMPT
        answer = json.loads(messages[2]["content"])
        assert tuple(answer) == build.KEYS
        assert json.dumps(answer, separators=(",", ":")) == messages[2]["content"]
        assert answer["category"] in w.PROBLEMS
        assert answer["priority"] in w.PRIORITIES
        assert isinstance(answer["needs_refund"], bool)
        assert answer["product"] in messages[1]["content"]
        assert answer["order_id"] is None or answer["order_id"] in messages[1]["content"]


def test_parts_share_no_ticket_and_no_order_number() -> None:
    texts = [messages[1]["content"] for part in PARTS for messages in rows(part)]
    orders = [json.loads(messages[2]["content"])["order_id"] for part in PARTS for messages in rows(part)]
    known = [order for order in orders if order]
    assert len(set(texts)) == len(texts)
    assert len(set(known)) == len(known)


def test_heldout_has_products_that_training_lacks() -> None:
    train = {json.loads(messages[2]["content"])["product"] for messages in rows("train")}
    heldout = {json.loads(messages[2]["content"])["product"] for messages in rows("heldout")}
    assert len(heldout - train) >= len(heldout) // 3
    joined = " ".join(messages[1]["content"] for messages in rows("train"))
    assert not any(brand in joined for brand in w.HELDOUT_BRANDS)


def test_labels_are_balanced_in_training() -> None:
    answers = [json.loads(messages[2]["content"]) for messages in rows("train")]
    for key, labels in (("category", 4), ("priority", 3), ("needs_refund", 2)):
        counts = [sum(a[key] == value for a in answers) for value in {a[key] for a in answers}]
        assert len(counts) == labels
        assert max(counts) <= 1.3 * min(counts)


def test_system_prompt_names_every_key_and_label() -> None:
    for word in (*build.KEYS, *w.PROBLEMS, *w.PRIORITIES, "null", "true", "false"):
        assert word in build.SYSTEM_PROMPT


def test_the_task_is_absent_from_the_pretraining_conversations() -> None:
    samples = islice(corpus.stream(3, 0.0, ["none"], repeated=False), 3000)
    text = "\n".join(corpus.plain_text(sample) for sample in samples)
    found = set(re.findall(r"\w+", text.lower())) & set(RESERVED_WORDS)
    assert not found


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"a":"x","b":true,"c":null,"d":"1"}', 1.0),
        (' {"d": "1", "c": null, "b": true, "a": "x"}\n', 1.0),
        ('{"a":"x","b":true,"c":null,"d":1}', 0.75),
        ('{"a":"x","b":1,"c":null,"d":"1"}', 0.75),
        ('{"a":"x","b":true,"d":"1"}', 0.75),
        ('{"a":"X"}', 0.0),
        ('{"a":"x","more":1}', 0.25),
        ("{}", 0.0),
        ("", 0.0),
        ("null", 0.0),
        ("[1]", 0.0),
        ('{"a":"x"', 0.0),
        ('```json\n{"a":"x"}\n```', 0.0),
        ('{"a":"x","b":NaN}', 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_score(answer: str, expected: float) -> None:
    assert score('{"a":"x","b":true,"c":null,"d":"1"}', answer) == expected


@pytest.mark.parametrize("bad", ["", "[]", "{}", "text"])
def test_score_refuses_a_wrong_expectation(bad: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        score(bad, "{}")
