"""What the sides of the serving benchmark differ by is found under a load that differs by far more."""

import random

from benchmarks.serving.client import Raw
from benchmarks.serving.load import apart, without_load


def queue(count: int, more: float) -> tuple[list[Raw], list[bool]]:
    """Answers of one that begins them one after the other; every other one, by lot, `more` seconds later."""
    source, now, free, answers, late = random.Random(1), 0.0, 0.0, [], []
    for _ in range(count):
        now += source.expovariate(50)
        free = max(now, free) + source.uniform(0.01, 0.02)
        late.append(source.random() < 0.5)
        first = free + (more if late[-1] else 0.0)
        content = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: [DONE]\n\n'
        answers.append(Raw("m", now, [(first, content)], ended=first + 0.1, status=200))
    return answers, late


def test_what_load_explains_is_taken_away_and_what_a_side_adds_is_left() -> None:
    answers, late = queue(2000, more=0.003)
    seconds, plain = without_load(answers)
    assert plain.std() < seconds.std() / 2
    sides = [[value for value, side in zip(plain, late, strict=True) if side is one] for one in (False, True)]
    low, middle, high = apart(*sides)
    assert low < 0.003 < high and abs(middle - 0.003) < 0.001


def test_one_answer_is_left_as_it_is() -> None:
    (answer,), _ = queue(1, more=0.0)
    seconds, plain = without_load([answer])
    assert seconds == plain
