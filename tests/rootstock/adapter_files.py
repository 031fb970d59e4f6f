"""Adapters and whole models written by hand for tests, right ones and wrong ones; no torch."""

import json
import struct
from pathlib import Path
from typing import Any

ID = "adapter-0123456789"
RANK, HIDDEN, INNER, LAYERS = 4, 64, 128, 2
BASE_CONFIG = {
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": LAYERS,
}
LAYERS_OF = {"q_proj": (HIDDEN, 128), "v_proj": (HIDDEN, 64), "o_proj": (128, HIDDEN), "down_proj": (INNER, HIDDEN)}
PARENT = {"down_proj": "mlp"}

Tensors = dict[str, tuple[str, list[int], bytes]]


def value(dtype: str, number: float) -> bytes:
    """One number in the bytes of a safetensors dtype."""
    if dtype == "F16":
        return struct.pack("<e", number)
    single = struct.pack("<f", number)
    return single if dtype == "F32" else single[2:]


def tensor(shape: list[int], dtype: str = "F32", number: float = 0.01) -> tuple[str, list[int], bytes]:
    count = 1
    for size in shape:
        count *= size
    return dtype, shape, value(dtype, number) * count


def name(layer: int, module: str, side: str) -> str:
    return f"base_model.model.model.layers.{layer}.{PARENT.get(module, 'self_attn')}.{module}.lora_{side}.weight"


def good_tensors(dtype: str = "F32") -> Tensors:
    found = {}
    for layer in range(LAYERS):
        for module, (inputs, outputs) in LAYERS_OF.items():
            found[name(layer, module, "A")] = tensor([RANK, inputs], dtype)
            found[name(layer, module, "B")] = tensor([outputs, RANK], dtype)
    return found


def safetensors(tensors: Tensors, **changed_header: Any) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for key, (dtype, shape, data) in tensors.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header | changed_header).encode()
    return struct.pack("<Q", len(text)) + text + body


def good_config() -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": list(LAYERS_OF),
        "base_model_name_or_path": "tiny",
        "bias": "none",
        "use_dora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "rank_pattern": {},
    }


FACTS: dict[str, Any] = {
    "base": "tiny",
    "base_sha256": "0" * 64,
    "template_sha256": "1" * 64,
    "rank": RANK,
    "alpha": 8.0,
    "target_modules": list(LAYERS_OF),
    "recipe": {"n_epochs": 3},
}


def write(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(good_tensors() if tensors is None else tensors))
    (folder / "adapter_config.json").write_text(json.dumps(good_config() | config))
    return folder


FULL_FACTS: dict[str, Any] = {
    name: value for name, value in FACTS.items() if name not in ("rank", "alpha", "target_modules")
} | {"kind": "full"}
MODEL_CONFIG = BASE_CONFIG | {"dtype": "bfloat16", "vocab_size": 32, "tie_word_embeddings": True}


def model_tensors(dtype: str = "BF16", number: float = 0.5) -> Tensors:
    """The weights of a model that fits `MODEL_CONFIG`, as far as anybody here looks."""
    found = {"model.embed_tokens.weight": tensor([32, HIDDEN], dtype, number)}
    for layer in range(LAYERS):
        for module, (inputs, outputs) in LAYERS_OF.items():
            place = f"model.layers.{layer}.{PARENT.get(module, 'self_attn')}.{module}.weight"
            found[place] = tensor([outputs, inputs], dtype, number)
    return found


def write_model(folder: Path, tensors: Tensors | None = None, *, shards: int = 1, **config: Any) -> Path:
    """A whole model's folder, in one file or in several with their index."""
    folder.mkdir(exist_ok=True)
    tensors = model_tensors() if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(MODEL_CONFIG | config))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
        return folder
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        mine = dict(list(tensors.items())[number::shards])
        (folder / file).write_bytes(safetensors(mine))
        index |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder
