"""Linear layers in four bits: how a model is loaded with them, and how a layer's weight is had again as numbers.

The only module that knows bitsandbytes. Knows nothing about adapters or jobs.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from rootstock.errors import ConfigurationError


def four_bits(dtype: torch.dtype, device: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` for NF4 with double quantisation, computing in `dtype`.

    Raises `ConfigurationError` where bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigurationError("Training on a base in four bits needs bitsandbytes, which is not installed here.")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def keep_for_training(model: Any) -> None:
    """Keep the layers from packing their weights anew for inference on a CPU, through which no gradient flows."""
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def unpacker(layer: torch.nn.Linear, dtype: torch.dtype) -> Callable[[], torch.Tensor] | None:
    """What gives the layer's weight as a matrix of `dtype`, made anew at each call; `None` for an ordinary layer."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return None
    from bitsandbytes.functional import dequantize_4bit

    packed = layer.weight.data

    def unpack() -> torch.Tensor:
        matrix: torch.Tensor = dequantize_4bit(packed, state)
        return matrix.to(dtype)

    return unpack
