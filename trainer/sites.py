"""Which layers of a model may carry adapters.

Knows nothing about adapters themselves.
"""

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from trainer.base import Base
from trainer.lora import Site
from trainer.quantised import unpacker


def linear_layers(model: Any) -> list[str]:
    """The names of all linear layers but the head, as vLLM matches them (`q_proj`, ...).

    Every one gets an adapter: leaving out the MLP costs more quality than a lower rank does.
    """
    head = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)
    found = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, kinds) and m is not head}
    return sorted(found)


def sites_of(base: Base) -> dict[str, Site]:
    """The linear layers of the model by path; all but the head."""
    head = base.model.get_output_embeddings()
    sites = {}
    for name, layer in base.model.named_modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head:
            unpack = unpacker(layer, base.activations)
            sites[name] = Site(name, layer.weight, layer.bias, layer.in_features, layer.out_features, unpack)
    return dict(sorted(sites.items()))
