"""Writes down what a trained model says at some places, for whoever serves it to compare with.

What is written down is decided in `rootstock.adapters.proof`. Knows no method: whatever a file's items are, their rows
have learned tokens, or at least tokens.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from rootstock.adapters.proof import CONVERSATION, EXAMPLES, LONGEST, Passage, Proof, positions
from trainer.base import Base
from trainer.chat import CannotRender
from trainer.data import Row
from trainer.engine import Scores
from trainer.method import Measured, Pass, Passes


def take(items: Sequence[Any], slot: Any) -> Passes:
    """The passages of a proof: what the slot's weights make of some rows. Asks for one pass for each."""
    slot.refresh()
    passages: list[Passage] = []

    def look(rows: Sequence[Row], scores: Scores) -> Measured:
        at = iter(scores.log_probs.detach().float().tolist())
        for row in rows:
            places = [place for place, learned in enumerate(row.learn) if learned]
            numbers = [next(at) for _ in places]
            passages.append(Passage(ids=list(row.ids), positions=places, log_probs=numbers))
        return Measured(scores.log_probs.sum(), {})

    for row in _rows(items):
        yield Pass(slot, [row], look, None)
    return passages


def complete(passages: Sequence[Passage], base: Base) -> Proof:
    """The passages, and how this base's tokenizer and template spell the conversation that all proofs share."""
    template = base.template
    for since in (0, 1) if template is not None else ():
        with contextlib.suppress(CannotRender):
            assert template is not None
            text = template.prompt_text(CONVERSATION[since:])
            ids = list(base.tokenizer(text, add_special_tokens=False).input_ids)
            return Proof(passages=list(passages), conversation=ids, since=since)
    return Proof(passages=list(passages), conversation=None)


def _rows(items: Sequence[Any]) -> list[Row]:
    rows: list[Row] = []
    for item in items:
        if len(rows) == EXAMPLES:
            break
        row = item.sequences[0]
        ids = row.ids[:LONGEST]
        learned = [place for place in range(1, len(ids)) if row.learn[place]] or list(range(1, len(ids)))
        if learned:
            chosen = set(positions(learned))
            rows.append(Row(row.line, ids, tuple(place in chosen for place in range(len(ids)))))
    return rows
