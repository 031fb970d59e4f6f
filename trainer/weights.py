"""What one job trains, flat: float32 weights, their gradient and AdamW's moments, each one vector.

Saving, resuming, cancelling or throwing a job away concerns its vectors only, never its neighbours'. Knows nothing
about layers beyond the shapes of their weights.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


class Weights:
    """The trained tensors of one job by name, as views of one float32 vector.

    `gradient` has the same layout; backward passes add to it. `master` is changed by `step`.
    """

    def __init__(self, shapes: Mapping[str, torch.Size | tuple[int, ...]], device: torch.device) -> None:
        self.shapes = dict(shapes)
        self.size = sum(math.prod(shape) for shape in self.shapes.values())
        self.master = torch.nn.Parameter(torch.zeros(self.size, device=device))
        self.gradient = torch.zeros(self.size, device=device)
        # Decay is off: a recipe has none, and it would move what no gradient reaches.
        self._optimizer = torch.optim.AdamW([self.master], weight_decay=0.0, fused=True)

    def views(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of a vector of this layout by name, as views of it."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            views[name] = vector[start : start + size].view(shape)
            start += size
        return views

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies of the weights on the CPU, ready to be saved."""
        vector = self.master.detach().to("cpu", copy=True)
        return {name: view.clone() for name, view in self.views(vector).items()}

    @torch.no_grad()
    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace the named weights."""
        views = self.views(self.master)
        for name, tensor in tensors.items():
            views[name].copy_(tensor)

    def norm(self) -> torch.Tensor:
        """The gradient's norm, not finite when any of it is not."""
        norm: torch.Tensor = torch.linalg.vector_norm(self.gradient)
        return norm

    @torch.no_grad()
    def step(self, rate: float, norm: torch.Tensor, clip: float) -> None:
        """One AdamW step (Loshchilov & Hutter 2019), the gradient clipped to the norm `clip`; clears the gradient."""
        self.gradient.mul_((clip / (norm + 1e-6)).clamp(max=1.0))
        self.master.grad = self.gradient
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self.master.grad = None
        self.gradient.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """Vectors on the CPU from which `load` goes on exactly: weights and moments."""
        optimizer = self._optimizer.state.get(self.master, {})
        vectors = {"master": self.master.detach(), **{name: optimizer.get(name) for name in MOMENTS}}
        return {name: vector.to("cpu", copy=True) for name, vector in vectors.items() if vector is not None}

    @torch.no_grad()
    def load(self, vectors: Mapping[str, torch.Tensor], steps: int) -> None:
        """Put back what `state` gave after `steps` steps."""
        device = self.master.device
        self.master.copy_(vectors["master"])
        moments: dict[str, Any] = {name: vectors[name].to(device) for name in MOMENTS if name in vectors}
        if moments:
            self._optimizer.state[self.master] = {"step": torch.tensor(float(steps), device=device), **moments}
