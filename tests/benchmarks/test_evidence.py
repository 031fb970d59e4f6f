"""The evidence is measured on the data that it says, and its page tells also what did not hold."""

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.evidence import page, tickets

WHERE = {
    "at": "today",
    "commit": "abc",
    "cpu": "a CPU",
    "threads": 1,
    "python": "3",
    "torch": "2",
    "transformers": "5",
    "base": "tiny",
}


def answers(lines: list[Any]) -> list[str]:
    return [line["messages"][-1]["content"] for line in lines]


def test_no_ticket_is_drawn_twice_and_none_of_the_known_ones() -> None:
    training = tickets.draw(300, "a")
    held = tickets.draw(100, "b", 0.4, training)
    assert len({one.text for one in [*training, *held]}) == 400
    assert training == tickets.draw(300, "a")


def test_shuffled_answers_are_the_same_ones_elsewhere() -> None:
    given = tickets.lines(tickets.draw(100, "a"))
    mixed = tickets.shuffled(given, "x")
    assert Counter(answers(mixed)) == Counter(answers(given))
    assert [line["messages"][:-1] for line in mixed] == [line["messages"][:-1] for line in given]
    assert sum(a == b for a, b in zip(answers(mixed), answers(given), strict=True)) < 20


def test_half_of_the_noisy_answers_are_spoilt_in_every_way() -> None:
    given = tickets.lines(tickets.draw(400, "a"))
    noisy = tickets.noisy(given, 0.5, "x")
    spoilt = [text for text, right in zip(answers(noisy), answers(given), strict=True) if text != right]
    assert 140 <= len(spoilt) <= 200  # another ticket's field or answer may be the right one
    assert any(text.startswith("Sure, here it is: {") for text in spoilt)
    assert any(text.startswith("{") and not text.endswith("}") for text in spoilt)
    assert any(text.endswith("}") and text[0] == "{" and len(json.loads(text)) == 4 for text in spoilt)
    assert answers(given) == answers(tickets.lines(tickets.draw(400, "a")))  # what is given stays as it is


@pytest.mark.parametrize(("right", "said"), [(19, "held"), (18, "**not held**")])
def test_the_page_counts_verdicts_and_says_what_missed(right: int, said: str) -> None:
    def row(way: str, verdict: str, seed: int) -> dict[str, Any]:
        reasons = [] if verdict == "ship" else ["no_clear_gain"]
        gain = {"low": -0.1, "mean": 0.1, "high": 0.2}
        return {"way": way, "seed": seed, "verdict": verdict, "reasons": reasons, "fields": 0.5, "gain": gain}

    rows = [row("json", "ship" if seed < right else "hold", seed) for seed in range(20)]
    rows += [row("shuffled", "hold", seed) for seed in range(20)]
    numbers = {"rows": rows, "examples": 80, "held_out": 40, "cpu_seconds": 1.0}
    text = page.write({"gate": {"where": WHERE, "cpu_seconds": 1.0, "numbers": numbers}})
    assert f"the JSON task: ship in {right} of 20 ({said})" in text
    assert "the same tickets, answers shuffled: hold in 20 of 20 (held)" in text
    assert "a CPU, 1 thread(s)" in text
