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
    surprise, right = _next_tokens(base, ids, learn)
    return LossSum(surprise.sum(), right.sum(), right.numel())


@dataclass(frozen=True, slots=True)
class RowSums:
    """Sums over the learned tokens of each row of one forward pass; every field is `[rows]`."""

    log_probs: torch.Tensor  # with gradient
    correct: torch.Tensor  # tokens whose most likely prediction is the right one
    tokens: torch.Tensor


def row_sums(base: Base, ids: torch.Tensor, learn: torch.Tensor) -> RowSums:
    """How likely the model finds what is marked in `learn` (`[rows, tokens]`, padded on the right), row by row."""
    surprise, right = _next_tokens(base, ids, learn)
    wanted = learn[:, 1:]
    # Spread out again and summed along the rows: unlike an indexed sum this has one order on every device.
    log_probs = surprise.new_zeros(wanted.shape).masked_scatter(wanted, -surprise).sum(1)
    correct = torch.zeros_like(wanted).masked_scatter(wanted, right).sum(1)
    return RowSums(log_probs, correct, wanted.sum(1))


def dpo_loss(margins: torch.Tensor) -> torch.Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7), summed over the pairs.

    `margins` are the differences of implicit rewards, as `reward_margins` gives them.
    """
    return -functional.logsigmoid(margins).sum()


def reward_margins(chosen: torch.Tensor, rejected: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """By how much the model's implicit reward of the chosen output exceeds that of the rejected one, `[pairs]`.

    `chosen` and `rejected` are the model's log-probabilities of the outputs, `reference` is their difference (chosen
    minus rejected) under the model that the training began with. Zero before the first step.
    """
    return beta * ((chosen - rejected) - reference)


def _next_tokens(base: Base, ids: torch.Tensor, learn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each learned token, row after row: its negative log-likelihood (with gradient), and whether it came first."""
    wanted = learn[:, 1:]  # token t is predicted at position t-1; a first token has nothing to be predicted from
    targets = ids[:, 1:][wanted]
    logits = _logits_at(base, ids, wanted).float()
    return functional.cross_entropy(logits, targets, reduction="none"), logits.detach().argmax(-1) == targets


def _logits_at(base: Base, ids: torch.Tensor, wanted: torch.Tensor) -> Any:
    # The head over a whole vocabulary is a large part of a step; most positions carry no loss.
    if not base.head_is_plain:
        return base.model(input_ids=ids, use_cache=False).logits[:, :-1][wanted]
    hidden = base.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return base.model.get_output_embeddings()(hidden[:, :-1][wanted])
