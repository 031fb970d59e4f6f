"""The ledger finds what it is there to find: a soak that cannot fail would prove nothing."""

import time

from tests.soak.ledger import Ledger


def ledger() -> Ledger:
    return Ledger(words={"one": "Bado", "two": "Figu", "three": "Kalo"})


def test_the_right_word_is_no_fault() -> None:
    found = ledger()
    found.answered("one", " Bado.", time.monotonic(), told="one")
    assert found.faults == [] and found.counts["answers"] == 1


def test_another_s_word_is_a_crossed_answer_and_nobody_s_a_wrong_one() -> None:
    found = ledger()
    found.answered("one", "Figu", time.monotonic())
    found.answered("one", "Hello", time.monotonic())
    assert found.counts["crossed"] == found.counts["wrong"] == 1 and len(found.faults) == 2


def test_an_alias_may_answer_as_before_only_to_requests_sent_before_the_move_was_confirmed() -> None:
    found = ledger()
    found.moving("a", "one")
    found.moved("a")
    sent = time.monotonic()
    found.moving("a", "two")
    found.answered("a", "Figu", sent)  # it may have moved already
    found.answered("a", "Bado", sent)
    found.moved("a")
    found.answered("a", "Bado", sent)  # was sent before
    assert found.faults == []
    found.answered("a", "Bado", time.monotonic())
    assert found.counts["stale"] == 1
    found.answered("a", "Figu", time.monotonic(), told="one")
    assert found.counts["misnamed"] == 1
