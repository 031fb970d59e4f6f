"""Losses as pure functions of a base model and a padded batch; computed only where something is learned.

Knows nothing about optimizers, steps or data.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from trainer.base import Base


@dataclass(frozen=True, slots=True)
class LossSum:
    """Sums over the learned tokens of one forward pass: added over micro-batches they give the step's exact mean."""

    loss: torch.Tensor  # summed negative log-likelihood, with gradient
    correct: torch.Tensor  # tokens whose most likely prediction is the right one
    tokens: int


def sft_loss(base: Base, ids: torch.Tensor, learn: torch.Tensor) -> LossSum:
    """Next-token loss summed over the tokens marked in `learn` (`[rows, tokens]`, padded on the right)."""
    wanted = learn[:, 1:]  # token t is predicted at position t-1; a first token has nothing to be predicted from
    targets = ids[:, 1:][wanted]
    logits = _logits_at(base, ids, wanted).float()
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    correct = (logits.detach().argmax(-1) == targets).sum()
    return LossSum(loss, correct, targets.numel())


def _logits_at(base: Base, ids: torch.Tensor, wanted: torch.Tensor) -> Any:
    # The head over a whole vocabulary is a large part of a step; most positions carry no loss.
    if not base.head_is_plain:
        return base.model(input_ids=ids, use_cache=False).logits[:, :-1][wanted]
    hidden = base.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return base.model.get_output_embeddings()(hidden[:, :-1][wanted])
