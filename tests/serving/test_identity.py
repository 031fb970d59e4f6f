"""The identity adapter: a plain adapter, all zeros, for the bases we know."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from rootstock import ids
from rootstock.adapters.verify import read_header
from serving.base import ServedBase
from serving.identity import IDENTITY_ID, SUPPORTED, write_identity_adapter


def test_it_adapts_a_layer_of_the_base_by_nothing(base: ServedBase, tmp_path: Path) -> None:
    path = write_identity_adapter(base, tmp_path / "identity")
    assert path is not None
    weights = path / "adapter_model.safetensors"
    tensors = read_header(weights)
    assert {name.rpartition(".lora_")[2]: tensor.shape for name, tensor in tensors.items()} == {
        "A.weight": (1, 64),
        "B.weight": (128, 1),
    }
    data_bytes = sum(tensor.end - tensor.start for tensor in tensors.values())
    assert weights.read_bytes()[-data_bytes:] == bytes(data_bytes)
    assert json.loads((path / "adapter_config.json").read_text())["r"] == 1


def test_writing_it_again_changes_nothing(base: ServedBase, tmp_path: Path) -> None:
    first = write_identity_adapter(base, tmp_path)
    assert first is not None
    changed = first.stat().st_mtime_ns
    assert write_identity_adapter(base, tmp_path) == first
    assert first.stat().st_mtime_ns == changed


def test_another_base_gets_another_folder(base: ServedBase, tmp_path: Path) -> None:
    other = dataclasses.replace(base, sha256="e" * 64)
    assert write_identity_adapter(base, tmp_path) != write_identity_adapter(other, tmp_path)


@pytest.mark.parametrize("family", sorted(SUPPORTED))
def test_without_a_head_dimension_it_follows_from_the_heads(family: str, base: ServedBase, tmp_path: Path) -> None:
    config = {"model_type": family, "hidden_size": 64, "num_attention_heads": 4}
    path = write_identity_adapter(dataclasses.replace(base, config=config), tmp_path)
    assert path is not None
    assert sorted(tensor.shape for tensor in read_header(path / "adapter_model.safetensors").values()) == [
        (1, 64),
        (64, 1),
    ]


def test_an_unknown_architecture_has_none_and_says_what_that_means(
    base: ServedBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = dataclasses.replace(base, config={"model_type": "mamba"})
    with caplog.at_level(logging.WARNING):
        assert write_identity_adapter(unknown, tmp_path / "none") is None
    assert "mamba" in caplog.text
    assert not (tmp_path / "none").exists()


def test_its_name_passes_for_an_adapter_id() -> None:
    assert ids.is_adapter_id(IDENTITY_ID)
