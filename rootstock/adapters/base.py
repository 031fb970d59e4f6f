"""What identifies a base model and its chat template, so that an adapter is never served on another one."""

import hashlib
import json
from pathlib import Path

_SAMPLE_BYTES = 1024 * 1024


def base_fingerprint(folder: Path) -> str:
    """SHA-256 that tells base models apart: `config.json`, and of every weight file its name, size and two samples.

    The first and last megabyte of each file suffice to tell two trainings of one architecture apart, and reading
    no more keeps the start of a 100 GB model quick.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(size - _SAMPLE_BYTES, 0))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def template_sha256(base: Path | str) -> str:
    """SHA-256 of a chat template: of the folder's own when `base` is a folder, else of the text itself.

    Example: `template_sha256(tokenizer.chat_template) == template_sha256(Path(base_folder))`.
    """
    if isinstance(base, Path) or ("\n" not in base and len(base) < 1024 and Path(base).is_dir()):
        base = _template_in(Path(base))
    return hashlib.sha256(base.encode()).hexdigest()


def _template_in(folder: Path) -> str:
    if (own := folder / "chat_template.jinja").exists():
        return own.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.exists() else None
    if isinstance(found, list):  # several named templates: the default one is what chat completions use
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found or ""
