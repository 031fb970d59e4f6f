"""Whether a whole model's folder is fit to be served in place of its base: the same tensors with other values.

The same reading as in `verify`: `json` and `struct` only, nothing in the folder is executed or trusted.
"""

import json
from pathlib import Path
from typing import Any

from rootstock.adapters.manifest import (
    MANIFEST,
    MODEL_CONFIG,
    MODEL_INDEX,
    Manifest,
    allowed_files,
    model_files,
    weight_files,
)
from rootstock.adapters.verify import Tensor, read_header, read_names, refuse
from rootstock.errors import AdapterInvalid
from rootstock.storage.base import CHUNK_BYTES

MAX_EXPONENT = 17
"""Weights are below two to this power, which no sound model comes near: biases of some reach hundreds."""

_FREE = frozenset({"dtype", "torch_dtype", "transformers_version", "use_cache", "_name_or_path"})
"""What a config may say otherwise than the base's: none of it changes what the weights mean."""

# Of the upper byte of a value, without its sign: the largest sane one, and the least of infinity and NaN.
# An exponent of 8 bits has its last bit in the next byte, hence steps of two; float16 ends below the bound.
_UPPER = {
    "F32": ((127 + MAX_EXPONENT - 1) // 2, 0x7F),
    "BF16": ((127 + MAX_EXPONENT - 1) // 2, 0x7F),
    "F16": (0x7B, 0x7C),
}
_WIDTH = {"F32": 4, "BF16": 2, "F16": 2}


def verify_full(folder: Path, manifest: Manifest, base_folder: Path) -> None:
    """Raise `AdapterInvalid`, saying what is wrong, unless the folder is the base model with other weights.

    Reads every weight once: about a second for each gigabyte.
    """
    if manifest.kind != "full":
        refuse("it is a LoRA adapter, not a whole model")
    names = allowed_files("full", {path.name for path in folder.iterdir()} - {MANIFEST, "README.md"})
    _verify_config(folder, base_folder)
    files = {name: read_header(folder / name) for name in weight_files(names)}
    if MODEL_INDEX in names:
        _verify_index(folder / MODEL_INDEX, files)
    tensors = {name: tensor for found in files.values() for name, tensor in found.items()}
    if len(tensors) != sum(map(len, files.values())):
        refuse("two of its files hold a tensor of the same name")
    _verify_tensors(tensors, base_folder)
    for file, found in files.items():
        for name, tensor in found.items():
            _verify_values(folder / file, name, tensor)


def write_config(base_folder: Path, folder: Path, dtype: str) -> None:
    """Write the `config.json` of a whole model in `folder`: the base's own, with the type of the stored weights.

    Example: `write_config(base_folder, folder, "bfloat16")`. What transformers writes after loading a model names the
    same things in other words, which `verify_full` would have to tell from a change.
    """
    config = json.loads((base_folder / MODEL_CONFIG).read_bytes())
    config["dtype" if "dtype" in config else "torch_dtype"] = dtype
    (folder / MODEL_CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def _verify_config(folder: Path, base_folder: Path) -> None:
    own, base = _config(folder), _config(base_folder)
    for name in sorted({*own, *base} - _FREE):
        if own.get(name) != base.get(name):
            refuse(f"its {MODEL_CONFIG} differs from the base model's in {name!r}")


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MODEL_CONFIG).read_bytes())
    except FileNotFoundError:
        refuse(f"{MODEL_CONFIG} is missing")
    except (ValueError, RecursionError):
        refuse(f"{MODEL_CONFIG} cannot be read")
    if not isinstance(found, dict):
        refuse(f"{MODEL_CONFIG} is not an object")
    if isinstance(text := found.get("text_config"), dict):
        found["text_config"] = {name: value for name, value in text.items() if name not in _FREE}
    return found


def _verify_index(path: Path, files: dict[str, dict[str, Tensor]]) -> None:
    try:
        listed = json.loads(path.read_bytes())["weight_map"]
    except FileNotFoundError:
        refuse(f"{path.name} is missing")
    except (ValueError, TypeError, KeyError, RecursionError):
        refuse(f"{path.name} cannot be read")
    if listed != {name: file for file, found in files.items() for name in found}:
        refuse(f"{path.name} does not say where its tensors are")


def _verify_tensors(tensors: dict[str, Tensor], base_folder: Path) -> None:
    wanted: dict[str, Tensor] = {}
    config = _config(base_folder)
    try:
        for file in weight_files(model_files(path.name for path in base_folder.iterdir())):
            wanted |= read_names(base_folder / file)[0]
    except AdapterInvalid as error:
        raise AdapterInvalid(f"The base model's weights cannot be compared with: {error.message}") from error
    tied = bool(config.get("tie_word_embeddings") or (config.get("text_config") or {}).get("tie_word_embeddings"))
    for name, tensor in wanted.items():
        if name not in tensors:
            # Some bases store twice what is computed from other values; transformers writes it once.
            if name.endswith("rotary_emb.inv_freq") or (tied and name.endswith("lm_head.weight")):
                continue
            refuse(f"it lacks the tensor {name}")
        if tensors[name].shape != tensor.shape:
            refuse(f"tensor {name} is {list(tensors[name].shape)}, the base model's {list(tensor.shape)}")
    if strangers := sorted(set(tensors) - set(wanted)):
        refuse(f"the base model has no tensor {strangers[0]}")


def _verify_values(path: Path, name: str, tensor: Tensor) -> None:
    # Upper bytes tell the size of a value. Striking out the sane ones leaves the others, at C speed.
    width, (sane, infinite) = _WIDTH[tensor.dtype], _UPPER[tensor.dtype]
    sane_bytes = bytes(byte for byte in range(256) if byte & 0x7F <= sane)
    with path.open("rb") as file:
        file.seek(tensor.start)
        left = tensor.end - tensor.start
        while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            if insane := chunk[width - 1 :: width].translate(None, sane_bytes):
                if max(byte & 0x7F for byte in insane) >= infinite:
                    refuse(f"tensor {name} holds NaN or infinity")
                refuse(f"tensor {name} holds a weight beyond {2**MAX_EXPONENT}")
