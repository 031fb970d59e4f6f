"""About how much device memory a job needs at least, from nothing but the base model's files. Knows no device.

Weights and what is kept for each trained one are exact; activations are those of the smallest pass that is ever made.
So what does not fit by this does not fit at all, and what does fit may still have to make smaller passes.
"""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock.adapters.verify import read_names
from rootstock.errors import AdapterInvalid
from rootstock.records import ADAPTER_TYPES

HALF = 2
"""Bytes of a weight in bfloat16."""

NF4 = 0.53
"""Bytes of a weight in NF4 with its twice quantised scales (Dettmers et al. 2023)."""

TRAINED = 4 + 4 + 8
"""Bytes beside the copy that is computed with: master, gradient, and two moments in float32."""

LEAST_TOKENS = 1024
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Size:
    """What a base model consists of."""

    weights: int
    linear: tuple[tuple[int, int], ...]  # (outputs, inputs) of every layer that may carry an adapter
    hidden: int
    layers: int

    @property
    def in_linear(self) -> int:
        """Weights of all those layers."""
        return sum(rows * columns for rows, columns in self.linear)


def training_gib(size: Size, kind: str, rank: int) -> float:
    """The least memory in GiB for a job of this type; `rank` counts for adapters."""
    adapter = sum(rows + columns for rows, columns in size.linear) * rank
    held = {
        "lora": HALF * size.weights + (HALF + TRAINED) * adapter,
        "qlora": NF4 * size.in_linear + HALF * (size.weights - size.in_linear) + (HALF + TRAINED) * adapter,
        "full": (HALF + TRAINED) * size.weights,
    }[kind]
    # Where activations are computed again, each layer keeps what went into it, and one layer all that it computes.
    kept = LEAST_TOKENS * HALF * size.hidden * (size.layers + 20)
    return (held + kept) / GIB


def fitting(size: Size, limit_gib: float, rank: int) -> list[str]:
    """The types that fit into `limit_gib`."""
    return [kind for kind in ADAPTER_TYPES if training_gib(size, kind, rank) <= limit_gib]


@functools.lru_cache(maxsize=4)
def context_of(folder: Path) -> int | None:
    """The tokens that the model in a folder reads at a time; `None` where its files do not tell."""
    try:
        config = _config(folder)
        return int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@functools.lru_cache(maxsize=4)
def size_of(folder: Path) -> Size | None:
    """The size of the model in a folder; `None` where its files do not tell."""
    try:
        config = _config(folder)
        shapes = {}
        for file in sorted(folder.glob("model*.safetensors")):
            names, _ = read_names(file)
            shapes.update({name: tensor.shape for name, tensor in names.items()})
        hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError, AdapterInvalid):
        return None
    if not shapes:
        return None
    linear = [(shape[0], shape[1]) for name, shape in shapes.items() if ".layers." in name and len(shape) == 2]
    return Size(sum(math.prod(shape) for shape in shapes.values()), tuple(linear), hidden, layers)


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return config.get("text_config") or config
