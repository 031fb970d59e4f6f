"""LoRA layers on a loaded base model: put in, trained in float32, taken out again without a trace.

Knows nothing about optimizers, files or jobs.
"""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from rootstock.errors import AdapterInvalid
from trainer.base import Base
from trainer.recipe import Recipe

WEIGHTS = "adapter_model.safetensors"

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
def attached(base: Base, recipe: Recipe, start: Path | None = None) -> Iterator[Adapter]:
    """Adapter layers inside `base.model` for the length of the block; the base is bit for bit as before afterwards.

    The initial weights depend on the recipe's seed alone and leave the process's random state untouched; with `start`
    they are that adapter's, on the layers that it has. Raises `AdapterInvalid` for one that does not fit.
    """
    before = LoraConfig.from_pretrained(str(start)) if start else None
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # imported ones may have a fraction
        lora_dropout=0.0,
        target_modules=before.target_modules if before else linear_layers(base.model),
        use_rslora=before is not None and before.use_rslora,
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
        adapter = Adapter(_by_file_name(peft_model), config)
        if start is not None:
            _put_weights(adapter, load_file(start / WEIGHTS))
        yield adapter
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


@torch.no_grad()
def _put_weights(adapter: Adapter, tensors: dict[str, torch.Tensor]) -> None:
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wanted = {name: parameter.shape for name, parameter in adapter.parameters.items()}
    if found != wanted:
        odd = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise AdapterInvalid(f"The adapter to start from does not fit the base model at {odd}.")
    for name, parameter in adapter.parameters.items():
        parameter.copy_(tensors[name])


def _by_file_name(peft_model: Any) -> dict[str, torch.nn.Parameter]:
    found = {name.replace(".default", ""): p for name, p in peft_model.named_parameters() if p.requires_grad}
    saved = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    assert found.keys() == saved.keys(), "every trained parameter must be saved, and nothing else"
    return dict(sorted(found.items()))
