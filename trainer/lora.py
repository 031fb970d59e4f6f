"""LoRA layers on a loaded base model: put in, trained in float32, taken out again without a trace.

Knows nothing about optimizers, files or jobs.
"""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from trainer.base import Base
from trainer.recipe import Recipe

_LINEAR = (torch.nn.Linear, Conv1D)


@dataclass(frozen=True, slots=True)
class Adapter:
    """The trainable part: float32 parameters by the names that a PEFT file gives them."""

    parameters: dict[str, torch.nn.Parameter]
    config: LoraConfig

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights as they are now, on the CPU, ready to be saved."""
        return {name: p.detach().to("cpu", torch.float32).contiguous() for name, p in self.parameters.items()}

    @property
    def target_modules(self) -> list[str]:
        """The names of the layers that carry an adapter."""
        return sorted(self.config.target_modules or ())


@contextlib.contextmanager
def attached(base: Base, recipe: Recipe) -> Iterator[Adapter]:
    """Adapter layers inside `base.model` for the length of the block; the base is bit for bit as before afterwards.

    The initial weights depend on the recipe's seed alone and leave the process's random state untouched.
    """
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.0,
        target_modules=linear_layers(base.model),
        bias="none",
        task_type="CAUSAL_LM",
    )
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for notebooks
        torch.manual_seed(recipe.seed)
        peft_model = get_peft_model(base.model, config)
    try:
        # vLLM compares the recorded base with the name it serves, so it is the public name, never a local path.
        config.base_model_name_or_path = base.name
        config.inference_mode = True
        _fuse(peft_model)
        yield Adapter(_by_file_name(peft_model), config)
    finally:
        peft_model.unload()
        base.model.requires_grad_(False)
        vars(base.model).pop("peft_config", None)


def linear_layers(model: Any) -> list[str]:
    """The names of all linear layers but the head, as vLLM matches them (`q_proj`, ...).

    Every one gets an adapter: leaving out the MLP costs more quality than a lower rank does.
    """
    head = model.get_output_embeddings()
    found = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, _LINEAR) and m is not head}
    return sorted(found)


def _fuse(peft_model: Any) -> None:
    # On a CPU the sums and products beside PEFT's two small matrix products cost as much as they do: scale the
    # small matrix instead of the large output, and add inside the product. Only where no type has to be converted.
    for layer in peft_model.modules():
        plain = isinstance(layer, LoraLinear) and type(layer.base_layer) is torch.nn.Linear
        if plain and layer.base_layer.weight.dtype is torch.float32:
            layer.forward = functools.partial(_fused_forward, layer)


def _fused_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """`base(x) + scaling * x A^T B^T` with one product fewer to write out; `x` is `[..., in features]`."""
    out = layer.base_layer(x)
    small = functional.linear(x, layer.lora_A["default"].weight)
    up = layer.lora_B["default"].weight * layer.scaling["default"]
    return torch.addmm(out.flatten(0, -2), small.flatten(0, -2), up.t()).view_as(out)


def _by_file_name(peft_model: Any) -> dict[str, torch.nn.Parameter]:
    found = {name.replace(".default", ""): p for name, p in peft_model.named_parameters() if p.requires_grad}
    saved = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    assert found.keys() == saved.keys(), "every trained parameter must be saved, and nothing else"
    return dict(sorted(found.items()))
