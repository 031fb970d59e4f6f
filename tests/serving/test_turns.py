"""Turns: at most so many adapters at a time, nobody overtaken for ever, nobody forgotten."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.turns import PATIENCE_SECONDS, Turns


def test_adapters_in_a_slot_and_free_slots_are_let_in_at_once() -> None:
    turns: Turns[int] = Turns(2)
    assert turns.enter("a", 1, 0.0) and turns.enter("b", 2, 0.0) and turns.enter("a", 3, 0.0)
    assert not turns.enter("c", 4, 0.0)
    assert turns.running == {"a": 2, "b": 1} and turns.waiting == 1
    assert turns.leave("a", 0.1) == []
    assert turns.leave("a", 0.1) == [4]


def test_a_waiting_one_is_overtaken_for_a_while_only() -> None:
    turns: Turns[int] = Turns(1)
    turns.enter("hot", 0, 0.0)
    assert not turns.enter("cold", 1, 0.0)
    assert turns.enter("hot", 2, PATIENCE_SECONDS / 2)
    assert not turns.enter("hot", 3, PATIENCE_SECONDS * 1.1)
    assert turns.leave("hot", 2.0) == []
    assert turns.leave("hot", 2.0) == [1]  # the slot has drained; the hot one waits for its turn
    assert turns.leave("cold", 3.0) == [3]


def test_who_gives_up_holds_up_nobody() -> None:
    turns: Turns[int] = Turns(1)
    turns.enter("hot", 0, 0.0)
    turns.enter("cold", 1, 0.0)
    turns.enter("hot", 2, 10.0)
    assert turns.waiting == 2
    assert turns.give_up(1, 10.0) == [2]
    assert turns.running == {"hot": 2}


@given(
    slots=st.integers(1, 3),
    traffic=st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0.01, 1.0), st.floats(0.05, 2.0)), max_size=80),
)
def test_everybody_gets_a_turn_within_bounds(slots: int, traffic: list[tuple[str, float, float]]) -> None:
    """Whatever comes, a request waits no longer than the patience and what ran before it could not be overtaken."""
    turns: Turns[int] = Turns(slots)
    now, ends, began = 0.0, [], {}

    def start(ticket: int) -> None:
        began[ticket] = now
        ends.append((now + traffic[ticket][2], ticket))

    def run_until(limit: float) -> None:
        nonlocal now
        while ends and min(ends)[0] <= limit:
            now, ticket = min(ends)
            ends.remove((now, ticket))
            for admitted in turns.leave(traffic[ticket][0], now):
                start(admitted)
            assert len(turns.running) <= slots
        now = max(now, limit) if limit != float("inf") else now

    for ticket, (adapter, pause, _) in enumerate(traffic):
        run_until(now + pause)
        if turns.enter(adapter, ticket, now):
            start(ticket)
    run_until(float("inf"))
    assert set(began) == set(range(len(traffic)))
    assert turns.running == {} and turns.waiting == 0


@dataclass
class Asked:
    adapter: str
    ticket: object = field(default_factory=object)


class TurnsMachine(RuleBasedStateMachine):
    """Random comings and goings against a plain model of who runs and who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: Turns[object] = Turns(2)
        self.now = 0.0
        self.running: list[Asked] = []
        self.waiting: list[Asked] = []

    def admitted(self, tickets: list[object]) -> None:
        for ticket in tickets:
            (found,) = [asked for asked in self.waiting if asked.ticket is ticket]
            self.waiting.remove(found)
            self.running.append(found)

    @rule(adapter=st.sampled_from("abcd"), pause=st.floats(0, 0.4))
    def come(self, adapter: str, pause: float) -> None:
        self.now += pause
        asked = Asked(adapter)
        (self.running if self.turns.enter(adapter, asked.ticket, self.now) else self.waiting).append(asked)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from(range(len(self.running))))
        self.admitted(self.turns.leave(self.running.pop(asked).adapter, self.now))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        asked = self.waiting.pop(data.draw(st.sampled_from(range(len(self.waiting)))))
        self.admitted(self.turns.give_up(asked.ticket, self.now))

    @invariant()
    def they_agree(self) -> None:
        counts = {asked.adapter: 0 for asked in self.running}
        for asked in self.running:
            counts[asked.adapter] += 1
        assert self.turns.running == counts
        assert len(counts) <= 2
        assert self.turns.waiting == len(self.waiting)
        assert not self.waiting or len(counts) == 2 or any(w.adapter in counts for w in self.waiting)


TestTurnsMachine = TurnsMachine.TestCase
