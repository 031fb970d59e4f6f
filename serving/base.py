"""The base model that is served: where its files lie and what an adapter must have been made for.

Knows nothing about adapters' contents or about vLLM.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootstock import adapters
from rootstock.adapters import Manifest
from rootstock.errors import AdapterInvalid, ConfigurationError

FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "merges.txt", "vocab.*", "*.model")
"""What is needed of a base model's repository, as patterns of names."""


@dataclass(frozen=True, slots=True)
class ServedBase:
    """One base model as served; `fits` tells whether an adapter belongs on it."""

    name: str  # the public name, as manifests spell it
    folder: Path
    config: dict[str, Any]
    sha256: str
    template_sha256: str
    max_rank: int

    @classmethod
    def read(cls, folder: Path, *, name: str, max_rank: int) -> "ServedBase":
        """Take the facts from a Hugging Face folder. Raises `ConfigurationError` when it is none."""
        try:
            return cls(
                name=name,
                folder=folder,
                config=json.loads((folder / "config.json").read_text(encoding="utf-8")),
                sha256=adapters.base_fingerprint(folder),
                template_sha256=adapters.template_sha256(folder),
                max_rank=max_rank,
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"The base model in {folder} cannot be read: {error}") from error

    def fits(self, manifest: Manifest) -> None:
        """Raise `AdapterInvalid`, saying why, unless the adapter was made for this very base and template."""
        reason = None
        if manifest.base != self.name:
            reason = f"it was made for base model {manifest.base!r}, this is {self.name!r}"
        elif manifest.base_sha256 != self.sha256:
            reason = f"it was made on other weights than those that {self.name!r} has here"
        elif manifest.template_sha256 != self.template_sha256:
            reason = "it was trained with another chat template than the one served here"
        elif manifest.rank is not None and manifest.rank > self.max_rank:
            reason = f"its rank is {manifest.rank}, ROOTSTOCK_MAX_LORA_RANK is {self.max_rank}"
        if reason:
            raise AdapterInvalid(f"Adapter {manifest.adapter_id} cannot be served: {reason}.")


def locate(source: str) -> Path:
    """The folder of a base model given as a folder or as a hub id, which is downloaded unless it is here already.

    Raises `ConfigurationError` when it cannot be had.
    """
    if Path(source).is_dir():
        return Path(source).absolute()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        raise ConfigurationError(
            f"The base model {source!r} is no folder here and cannot be had from the hub: {error}"
        ) from error
