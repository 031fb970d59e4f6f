"""The last layer, only where something is learned: log-probabilities of learned tokens from the model's hidden states.

Never holds the logits of more than a few positions. The gradient is computed beside the value, so nothing is computed
twice and any loss of log-probabilities can stand behind it (the same idea as Cut Cross-Entropy, arXiv 2411.09009, and
Liger's chunked loss). Knows nothing about jobs, rows or adapters.
"""

from dataclasses import dataclass
from typing import Any

import torch

CHUNK_ELEMENTS = {"cpu": 4 * 1024**2, "cuda": 128 * 1024**2}
"""Logits that are held at a time."""


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer of a model: `logits = cap * tanh((hidden W^T + bias) / cap)`; not every model has a cap."""

    weight: torch.Tensor  # [vocabulary, hidden]
    bias: torch.Tensor | None
    cap: float | None

    @classmethod
    def of(cls, model: Any) -> "Head":
        """The head of a causal LM whose logits depend on nothing else."""
        layer = model.get_output_embeddings()
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        return cls(layer.weight, getattr(layer, "bias", None), cap)

    def log_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The float32 log-probability of each target (with gradient), and whether it is the likeliest token.

        `hidden` is `[tokens, hidden]`, `targets` `[tokens]`.
        """
        scores, correct = _LogProbs.apply(hidden, targets, self)  # type: ignore[no-untyped-call]
        return scores, correct


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
        count, wanted = len(targets), ctx.needs_input_grad[0]
        scores = torch.empty(count, dtype=torch.float32, device=hidden.device)
        correct = torch.empty(count, dtype=torch.bool, device=hidden.device)
        gradient = torch.empty_like(hidden) if wanted else None
        size = max(1, CHUNK_ELEMENTS[hidden.device.type] // head.weight.shape[0])
        for low in range(0, count, size):
            chunk = slice(low, low + size)
            scores[chunk], correct[chunk], slope = _chunk(hidden[chunk], targets[chunk], head, wanted)
            if gradient is not None:
                torch.mm(slope, head.weight, out=gradient[chunk])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(correct)
        return scores, correct

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.unsqueeze(1).to(gradient.dtype), None, None


def _chunk(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Scores, hits, and the gradient of the scores with regard to the logits before the cap, `[tokens, vocabulary]`."""
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    at = targets.unsqueeze(1)
    total = logits.logsumexp(1)
    scores = logits.gather(1, at).squeeze(1) - total
    correct = logits.argmax(1) == targets
    if not wanted:
        return scores, correct, None
    slope = torch.sub(logits, total.unsqueeze(1)).exp_().neg_()
    slope.scatter_add_(1, at, torch.ones_like(at, dtype=slope.dtype))
    if head.cap is not None:
        slope *= 1 - (logits / head.cap) ** 2
    return scores, correct, slope.to(hidden.dtype)
