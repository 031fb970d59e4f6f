"""Whether an adapter's folder is fit to be served: vLLM itself accepts wrong shapes, NaN and an alpha of 1e30.

Reads safetensors with `json` and `struct` only, so that nothing in an adapter is ever executed or trusted.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rootstock.adapters.manifest import CONFIG, FILES, MANIFEST, WEIGHTS, Manifest
from rootstock.errors import AdapterInvalid
from rootstock.storage.base import CHUNK_BYTES

MAX_SCALING = 128.0
"""Largest `alpha / rank`; usual values are 0.5 to 4."""

MAX_WEIGHT = 1024.0
"""Largest weight; usual ones are below 1. Larger ones overflow in bfloat16 and poison the KV cache of other users."""

_MAX_HEADER_BYTES = 16 * 1024 * 1024
_TENSOR = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")
_LAYER = re.compile(r"\.layers\.(\d+)\.")

# PEFT features that vLLM refuses or, worse, ignores: the setting, and the values that leave it unused.
_UNUSED: dict[str, Callable[[Any], bool]] = {
    "bias": lambda value: value in (None, "none"),
    "init_lora_weights": lambda value: value in (None, True, False, "gaussian"),
} | dict.fromkeys(
    (
        "modules_to_save",
        "use_dora",
        "lora_bias",
        "rank_pattern",
        "alpha_pattern",
        "layer_replication",
        "alora_invocation_tokens",
        "trainable_token_indices",
        "target_parameters",
        "use_qalora",
        "use_bdlora",
    ),
    lambda value: not value,
)

# Largest finite-and-sane bit pattern of the upper 16 bits of a value without its sign, per dtype.
DTYPES = {"F32": (4, 0x4480, 0x7F80), "BF16": (2, 0x4480, 0x7F80), "F16": (2, 0x6400, 0x7C00)}

# Families whose layers are the plain decoder ones below. Of others (mixtures of experts, latent attention, ...) the
# config alone does not tell every shape, so there names, pairs, ranks and values are checked but no dimensions.
_PLAIN = frozenset(
    "llama mistral ministral qwen2 qwen3 gemma gemma2 gemma3_text phi3 smollm3 olmo2 olmo3 granite starcoder2".split()
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in its file, bytes from the beginning, and what it is."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def verify_tree(folder: Path, manifest: Manifest, base_config: dict[str, Any] | None) -> None:
    """Raise `AdapterInvalid`, saying what is wrong, unless the folder is a plain LoRA adapter that is safe to load.

    `base_config` is the base model's `config.json`; with it every tensor is compared with the layer it belongs to.
    `adapter_config.json` must name the base model by its public name, as the manifest does. For a whole model there
    is `verify_full`.
    """
    if manifest.kind != "lora":
        refuse("it is a whole model, not an adapter to be loaded beside a base model")
    strangers = sorted({path.name for path in folder.iterdir()} - {*FILES, MANIFEST, "README.md"})
    if strangers:
        refuse(f"{strangers[0]!r} is none of its files; weights come as safetensors only")
    _verify_config(folder / CONFIG, manifest)
    tensors = read_header(folder / WEIGHTS)
    modules = _pairs(tensors, manifest)
    if base_config is not None:
        _verify_dimensions(modules, base_config.get("text_config") or base_config)
    _verify_values(folder / WEIGHTS, tensors)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, their offsets checked against its length; no weights are read."""
    found, end = read_names(path)
    for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
        if tensor.dtype not in DTYPES:
            refuse(f"tensor {name} has dtype {tensor.dtype}; F32, F16 and BF16 are served")
        if tensor.start != end or tensor.end - tensor.start != math.prod(tensor.shape) * DTYPES[tensor.dtype][0]:
            refuse(f"tensor {name} does not lie where the header of {path.name} says")
        end = tensor.end
    size = path.stat().st_size
    if end != size:
        refuse(f"{path.name} is {'cut short' if size < end else 'longer than its tensors'}")
    return found


def read_names(path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors as the header of a safetensors file says, unchecked, and where it ends."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
            if length > min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
                refuse(f"{path.name} is cut short or is no safetensors file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _tensor(entry, 8 + length) for name, entry in header.items()}, 8 + length
    except FileNotFoundError:
        refuse(f"{path.name} is missing")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        refuse(f"the header of {path.name} cannot be read")


def _tensor(entry: dict[str, Any], data_start: int) -> Tensor:
    start, end = entry["data_offsets"]
    shape = tuple(int(size) for size in entry["shape"])
    if min(shape, default=0) < 0:
        raise ValueError("negative size")
    return Tensor(str(entry["dtype"]), shape, data_start + int(start), data_start + int(end))


def _verify_config(path: Path, manifest: Manifest) -> None:
    try:
        config = json.loads(path.read_bytes())
        rank, alpha, targets = config["r"], float(config["lora_alpha"]), config["target_modules"]
    except FileNotFoundError:
        refuse(f"{path.name} is missing")
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        refuse(f"{path.name} cannot be read as the configuration of a LoRA adapter")
    if config.get("peft_type") != "LORA":
        refuse(f"its type is {config.get('peft_type')!r}, not LORA")
    for name, unused in _UNUSED.items():
        if not unused(config.get(name)):
            refuse(f"it uses {name}, which is not served")
    assert manifest.rank is not None and manifest.alpha is not None and manifest.target_modules is not None
    if rank != manifest.rank:
        refuse(f"its rank is {rank}, the manifest says {manifest.rank}")
    if not math.isfinite(alpha) or not 0 < alpha / manifest.rank <= MAX_SCALING:
        refuse(f"lora_alpha {alpha:g} is out of range for rank {manifest.rank}")
    if alpha != manifest.alpha:
        refuse(f"lora_alpha is {alpha:g}, the manifest says {manifest.alpha:g}")
    if not isinstance(targets, list) or sorted(targets) != sorted(manifest.target_modules):
        refuse(f"its target_modules are {targets}, the manifest says {manifest.target_modules}")
    if config.get("base_model_name_or_path") != manifest.base:
        refuse(f"it was made for base model {config.get('base_model_name_or_path')!r}, not for {manifest.base!r}")


def _pairs(tensors: dict[str, Tensor], manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Module name -> (inputs, outputs) of the layer that each pair of matrices adapts."""
    assert manifest.target_modules is not None
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or not _targeted(match["module"], manifest.target_modules):
            refuse(f"tensor {name} belongs to none of the target modules {manifest.target_modules}")
        sides.setdefault(match["module"], {})[match["side"]] = tensor.shape
    if not sides:
        refuse("it holds no tensors")
    modules = {}
    for module, shapes in sides.items():
        if set(shapes) != {"A", "B"}:
            refuse(f"{module} has lora_{next(iter(shapes))} but not its counterpart")
        a, b = shapes["A"], shapes["B"]
        if len(a) != 2 or len(b) != 2 or a[0] != manifest.rank or b[1] != manifest.rank:
            refuse(f"{module} has matrices {list(a)} and {list(b)}, which are not of rank {manifest.rank}")
        modules[module] = (a[1], b[0])
    return modules


def _targeted(module: str, targets: list[str]) -> bool:
    # PEFT's own rule: a target is a whole name or its last parts.
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _verify_dimensions(modules: dict[str, tuple[int, int]], config: dict[str, Any]) -> None:
    if config.get("model_type") not in _PLAIN:
        return
    layers = _layers(config)
    for module, found in modules.items():
        kind = module.rpartition(".")[2]
        if kind not in layers:
            refuse(f"the base model has no adaptable layer {module}")
        if found != layers[kind]:
            refuse(
                f"{module} maps {found[0]} to {found[1]}, the base model's layer {layers[kind][0]} to {layers[kind][1]}"
            )
        match = _LAYER.search(module)
        if match is None or int(match[1]) >= config["num_hidden_layers"]:
            refuse(f"the base model has no layer {module}")


def _layers(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    queries, values = heads * head, (config.get("num_key_value_heads") or heads) * head
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, values),
        "v_proj": (hidden, values),
        "qkv_proj": (hidden, queries + 2 * values),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "gate_up_proj": (hidden, 2 * inner),
        "down_proj": (inner, hidden),
        "c_fc": (hidden, inner),
        "c_proj": (inner, hidden),
    }


def _verify_values(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        width, sane, infinite = DTYPES[tensor.dtype]
        # The upper half of each value tells its size; a set of those is small and built at C speed.
        largest = max((max(upper) for upper in _upper_halves(path, tensor, width)), default=0)
        if largest >= infinite:
            refuse(f"tensor {name} holds NaN or infinity")
        if largest > sane:
            refuse(f"tensor {name} holds a weight beyond {MAX_WEIGHT:g}")


def _upper_halves(path: Path, tensor: Tensor, width: int) -> Iterator[set[int]]:
    with path.open("rb") as file:
        file.seek(tensor.start)
        left = tensor.end - tensor.start
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            halves = memoryview(chunk).cast("H")[width // 2 - 1 :: width // 2]
            yield {half & 0x7FFF for half in set(halves)}


def refuse(reason: str) -> NoReturn:
    """Raise `AdapterInvalid` for this reason."""
    raise AdapterInvalid(f"The adapter cannot be served: {reason}.")
