"""A whole model's folder as vLLM wants it: the weights from the store's cache, the tokenizer of its base model.

Knows nothing about vLLM's arguments or stores.
"""

import os
import secrets
from pathlib import Path

from rootstock.adapters.manifest import MANIFEST, MODEL_CONFIG, MODEL_INDEX
from serving.base import FILES, ServedBase

_PLACE = ".models"  # no adapter id begins with a dot


def assemble(base: ServedBase, weights: Path, cache: Path) -> Path:
    """A folder of links below `cache` to a model's own files, in `weights`, and to those of `base` beside its weights.

    Made anew at each start, because the base may have moved; every link appears at once, so two servers may do it.
    """
    folder = cache / _PLACE / weights.name
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {path.name: path for path in _beside_the_weights(base.folder)}
    wanted |= {path.name: path for path in weights.iterdir() if path.name != MANIFEST}
    for name, path in wanted.items():
        link = cache / _PLACE / f".{secrets.token_hex(8)}"
        link.symlink_to(path.resolve())
        os.replace(link, folder / name)
    for left in folder.iterdir():
        if left.name not in wanted:
            left.unlink(missing_ok=True)
    return folder


def _beside_the_weights(folder: Path) -> list[Path]:
    found = {path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not _of_the_weights(path.name))


def _of_the_weights(name: str) -> bool:
    return name in (MODEL_CONFIG, MODEL_INDEX) or name.endswith((".safetensors", ".safetensors.index.json"))
