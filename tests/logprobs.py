"""Telling models apart by the log-probabilities of what they would say next. Knows no model and no HTTP.

The engine may round in bfloat16, and its rounding depends on what else is in the batch: near-ties flip words, so texts
cannot be compared. The distances between two models' log-probabilities are far larger than the rounding.
"""

from collections.abc import Mapping

Opening = Mapping[str, float]
"""The likeliest first tokens of an answer -> their log-probabilities, in nats."""


def distance(left: Opening, right: Opening) -> float:
    """The largest gap between two openings, in nats; a token missing from one counts as that one's least likely."""
    return max(
        abs(left.get(token, min(left.values())) - right.get(token, min(right.values()))) for token in {*left, *right}
    )
