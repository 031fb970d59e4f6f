"""A base model of a few bytes, a store, and the cache between them; no torch, no vLLM."""

import json
from pathlib import Path

import pytest

from rootstock.adapters import Manifest, put_tree
from rootstock.storage import LocalStore
from serving.base import ServedBase
from serving.cache import AdapterCache
from tests.rootstock.adapter_files import BASE_CONFIG, FACTS, ID, write


@pytest.fixture
def base(tmp_path: Path) -> ServedBase:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BASE_CONFIG))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}\n")
    return ServedBase.read(folder, name="tiny", max_rank=16)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def facts(base: ServedBase) -> dict[str, object]:
    """What a trainer on this base would write into the manifest."""
    return FACTS | {"base_sha256": base.sha256, "template_sha256": base.template_sha256}


@pytest.fixture
def stored(store: LocalStore, facts: dict[str, object], tmp_path: Path) -> Manifest:
    return put_tree(store, ID, write(tmp_path / "adapter"), **facts)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(store: LocalStore, folder: Path, base: ServedBase) -> AdapterCache:
    return AdapterCache(store, folder, base)
