"""Preference losses as pure functions of log-probabilities. Knows nothing about models, optimizers or data."""

import torch
from torch.nn import functional


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
