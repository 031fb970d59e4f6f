"""What a trainer writes down of a model, and how it is compared."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rootstock.adapters.proof import CONVERSATION, FLOOR, LONGEST, POSITIONS, Passage, Proof, compare, positions
from tests.trainer.harness import engine_of
from trainer import proof
from trainer.base import Base
from trainer.data import Row
from trainer.driver import alone
from trainer.recipe import Facts, resolve


def taken(base: Base, rows: list[Row]) -> list[Passage]:
    engine = engine_of(base)
    facts = Facts(examples=1, hidden_size=64, context_tokens=128, dtype="float32", max_rank=16)
    slot = engine.open(resolve({}, facts, seed=1), None)
    try:
        found: list[Passage] = alone(engine, proof.take(rows, slot), 8192)
    finally:
        engine.close(slot)
    return found


def test_what_is_written_down_is_what_the_model_says(base: Base) -> None:
    ids = tuple(base.tokenizer("The ticket is about billing, I believe.").input_ids)
    rows = [Row(1, ids, tuple(n >= 3 for n in range(len(ids)))), Row(2, ids[:4], (False,) * 4)]
    first, second = taken(base, rows)  # fresh weights change nothing: it is the base that speaks
    with torch.no_grad():
        logits = base.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    assert first.ids == list(ids) and first.positions[0] == 3 and first.positions[-1] == len(ids) - 1
    for place, value in zip(first.positions, first.log_probs, strict=True):
        assert value == pytest.approx(float(logits[place - 1, ids[place]]), abs=1e-4)
    assert second.positions == [1, 2, 3]  # nothing in it is learned: a prompt of reinforcement


def test_the_conversation_is_spelled_as_the_base_spells_it(base: Base) -> None:
    found = proof.complete([], base)
    assert found.conversation == base.tokenizer.apply_chat_template(
        CONVERSATION, add_generation_prompt=True, return_dict=False
    )


@given(st.sets(st.integers(1, LONGEST), max_size=60).map(sorted))
def test_positions_are_some_of_the_learned_ones_with_both_ends(learned: list[int]) -> None:
    chosen = positions(learned)
    assert len(chosen) == len(set(chosen)) == min(POSITIONS, len(learned))
    assert set(chosen) <= set(learned)
    assert chosen == sorted(chosen) and (not learned or (chosen[0], chosen[-1]) == (learned[0], learned[-1]))


PROOF = Proof(passages=[Passage(ids=[1, 2, 3], positions=[1, 2], log_probs=[-1.0, -2.0])], conversation=None)


def test_distances_are_means_and_what_is_no_number_never_agrees() -> None:
    found = compare(PROOF, [-1.1, -2.0], [-2.0, -4.0])
    assert found.distance == pytest.approx(0.05) and found.effect == pytest.approx(1.5) and found.agrees
    assert not compare(PROOF, [-1.4, -2.0], [-2.0, -4.0]).agrees
    assert not compare(PROOF, [math.nan, -2.0], [-2.0, -4.0]).agrees
    assert not compare(PROOF, [-math.inf, -2.0], [-1.0, -2.0]).agrees
    assert compare(PROOF, [-1.0, -2.0], [-1.0, -2.0]).allowed == FLOOR
