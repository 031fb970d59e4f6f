"""What a trained model says, kept beside it, so that whoever serves it can tell whether it says the same there.

The trainer writes down how likely the model finds some tokens of held-out examples, and how its tokenizer and chat
template spell a fixed conversation. Knows neither how that is computed nor how a server is asked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

EXAMPLES, POSITIONS, LONGEST = 4, 8, 512
"""How much is written down: tokens of so many examples, so many of each, none behind so many others."""

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer in one word.\n\tBe exact: naïve, 你好, 🌱."},
    {"role": "user", "content": '  {"id": 1234567, "text": "Grüße aus Köln!"} '},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "Why?"},
]
"""Spells out what tokenizers and templates differ in: spaces, digits, accents, other scripts, turns."""

FLOOR, SHARE = 0.05, 0.1
"""The mean distance of log-probabilities that rounding explains, in nats; and as a share of what tuning changed."""


class Passage(BaseModel):
    """Tokens, and how likely the tuned model finds those at some positions behind all before them, in nats."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: Annotated[list[int], Field(min_length=2, max_length=LONGEST)]
    positions: Annotated[list[int], Field(min_length=1, max_length=POSITIONS)]
    log_probs: Annotated[list[float], Field(min_length=1, max_length=POSITIONS)]


class Proof(BaseModel):
    """See the module. `conversation` is `None` for a base without chat template.

    It spells `CONVERSATION` from message `since` on: some templates know no system message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passages: Annotated[list[Passage], Field(max_length=EXAMPLES)]
    conversation: list[int] | None
    since: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far what is served is from what was trained, as mean distances of log-probabilities in nats."""

    distance: float
    effect: float  # how far the base is from what was trained

    @property
    def allowed(self) -> float:
        """The largest distance that passes."""
        return max(FLOOR, SHARE * self.effect)

    @property
    def agrees(self) -> bool:
        """Whether the served model is the trained one."""
        return self.distance <= self.allowed


def compare(proof: Proof, served: Sequence[float], base: Sequence[float]) -> Comparison:
    """The served model's and the base's log-probabilities, in the order of the passages, against what was trained.

    A number that is none is as far away as can be.
    """
    trained = [value for passage in proof.passages for value in passage.log_probs]
    return Comparison(_distance(served, trained), _distance(base, trained))


def positions(learned: Sequence[int]) -> list[int]:
    """At most `POSITIONS` of the learned tokens' places, spread evenly."""
    if len(learned) <= POSITIONS:
        return list(learned)
    return [learned[round(index * (len(learned) - 1) / (POSITIONS - 1))] for index in range(POSITIONS)]


def _distance(found: Sequence[float], trained: Sequence[float]) -> float:
    gaps = [abs(a - b) for a, b in zip(found, trained, strict=True)]
    if not all(math.isfinite(gap) for gap in gaps):
        return math.inf
    return sum(gaps) / len(gaps) if gaps else 0.0
