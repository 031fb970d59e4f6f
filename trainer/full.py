"""The engine for full fine-tuning: every weight of the base is trained, one job at a time, and put back afterwards.

Weights, gradients and moments are float32 vectors as for adapters, 16 bytes for each weight of the base, so this is for
bases that fit that often. Knows nothing about steps or jobs' lives.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rootstock.errors import AdapterInvalid
from trainer.base import Base
from trainer.plain import PlainEngine
from trainer.recipe import Recipe
from trainer.weights import Weights


class FullSlot:
    """The base's own parameters, computed with in their own type and kept in float32."""

    def __init__(self, base: Base) -> None:
        self._parameters: dict[str, torch.nn.Parameter] = dict(base.model.named_parameters())
        self._before = {name: p.detach().to("cpu", copy=True) for name, p in self._parameters.items()}
        self.weights = Weights({name: p.shape for name, p in self._parameters.items()}, base.device)
        self.weights.put(self._parameters)
        gradients = self.weights.views(self.weights.gradient)
        self._hooks: list[Any] = []
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(True)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(_collect_into(gradients[name])))

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute with the weights as they are now."""
        for name, view in self.weights.views(self.weights.master).items():
            self._parameters[name].copy_(view)

    def finish_gradient(self) -> None:
        """It is complete."""

    @torch.no_grad()
    def remove(self) -> None:
        """Leave the base as it was."""
        for hook in self._hooks:
            hook.remove()
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.copy_(self._before[name])


class FullEngine(PlainEngine):
    """Any causal LM of transformers, all of it. Use as a context manager."""

    name = "full"

    def open(self, recipe: Recipe, start: Path | None = None) -> FullSlot:  # type: ignore[override]
        """Begin with the base itself. Raises `AdapterInvalid` for a `start`, which could only be an adapter."""
        if start is not None:
            raise AdapterInvalid("a full fine-tuning cannot go on from an adapter")
        return FullSlot(self.base)

    def save(self, folder: Path, slot: Any, recipe: Recipe, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """Write the whole model as transformers does, in the base's own type; no layer carries an adapter."""
        slot.refresh()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice for notebooks
            self.base.model.save_pretrained(folder)
        return []


def _collect_into(view: torch.Tensor) -> Any:
    # Each pass's gradient is added in float32: in bfloat16 small ones would be lost among large ones.
    def collect(parameter: torch.nn.Parameter) -> None:
        assert parameter.grad is not None
        view.add_(parameter.grad)
        parameter.grad = None

    return collect
