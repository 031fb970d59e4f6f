"""Whole models in the store: the way in and out, and what is never let through to be served."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from rootstock.adapters import Manifest, fetch_tree, put_tree, read_manifest, verify_full, verify_tree, write_config
from rootstock.errors import AdapterInvalid
from rootstock.storage import LocalStore
from tests.rootstock import adapter_files
from tests.rootstock.adapter_files import (
    FACTS,
    FULL_FACTS,
    HIDDEN,
    ID,
    MODEL_CONFIG,
    Tensors,
    model_tensors,
    safetensors,
    tensor,
    write_model,
)

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "base", model_tensors(number=0.25))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def manifest(store: LocalStore, folder: Path) -> Manifest:
    return put_tree(store, ID, folder, **FULL_FACTS)


def refused(folder: Path, manifest: Manifest, base: Path, reason: str) -> None:
    with pytest.raises(AdapterInvalid, match=reason):
        verify_full(folder, manifest, base)


class TestRoundTrip:
    @pytest.mark.parametrize("shards", [1, 3])
    def test_a_whole_model_comes_back_byte_for_byte(
        self, shards: int, store: LocalStore, base: Path, tmp_path: Path
    ) -> None:
        folder = write_model(tmp_path / "sharded", shards=shards)
        (folder / "generation_config.json").write_text("{}")
        manifest = put_tree(store, ID, folder, **FULL_FACTS)
        assert fetch_tree(store, ID, tmp_path / "got") == manifest == read_manifest(store, ID)
        assert (manifest.kind, manifest.rank, manifest.alpha, manifest.target_modules) == ("full", None, None, None)
        for path in folder.iterdir():
            assert (tmp_path / "got" / path.name).read_bytes() == path.read_bytes()
        verify_full(tmp_path / "got", manifest, base)

    @pytest.mark.parametrize(
        "stranger", ["tokenizer.json", "pytorch_model.bin", "adapter_model.safetensors", "code.py"]
    )
    def test_a_folder_with_anything_else_is_not_stored(self, stranger: str, store: LocalStore, folder: Path) -> None:
        (folder / stranger).write_bytes(pickle.dumps("x"))
        with pytest.raises(AdapterInvalid, match=stranger):
            put_tree(store, ID, folder, **FULL_FACTS)
        assert store.list("") == []

    @pytest.mark.parametrize(
        "missing", ["config.json", "model-00002-of-00003.safetensors", "model.safetensors.index.json"]
    )
    def test_a_model_with_a_part_missing_is_not_stored(self, missing: str, store: LocalStore, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "sharded", shards=3)
        (folder / missing).unlink()
        with pytest.raises(AdapterInvalid, match=f"no {missing}"):
            put_tree(store, ID, folder, **FULL_FACTS)

    @pytest.mark.parametrize("facts", [{"rank": 8}, {"alpha": 2.0}, {"target_modules": ["q_proj"]}])
    def test_what_only_an_adapter_has_is_refused(self, facts: dict[str, Any], store: LocalStore, folder: Path) -> None:
        with pytest.raises(AdapterInvalid, match=next(iter(facts))):
            put_tree(store, ID, folder, **FULL_FACTS | facts)

    @pytest.mark.parametrize("fact", ["rank", "alpha", "target_modules"])
    def test_what_an_adapter_must_have_is_missed(self, fact: str, store: LocalStore, tmp_path: Path) -> None:
        facts = {name: value for name, value in FACTS.items() if name != fact}
        with pytest.raises(AdapterInvalid, match=f"{fact} is missing"):
            put_tree(store, ID, adapter_files.write(tmp_path / "adapter"), **facts)

    def test_a_manifest_from_before_there_were_kinds_is_an_adapters(self, store: LocalStore, tmp_path: Path) -> None:
        put_tree(store, ID, adapter_files.write(tmp_path / "adapter"), **FACTS)
        stored = json.loads(store.get_bytes(f"adapters/{ID}/manifest.json"))
        assert "kind" not in stored  # and earlier versions, which refuse what they do not know, read it
        assert read_manifest(store, ID).kind == "lora"

    @pytest.mark.parametrize(
        "path", ["../../outside", "adapter_model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.json"]
    )
    def test_a_manifest_cannot_name_other_files(
        self, path: str, store: LocalStore, manifest: Manifest, tmp_path: Path
    ) -> None:
        changed = manifest.model_dump()
        changed["files"][path] = changed["files"]["config.json"]
        store.put_bytes(f"adapters/{ID}/manifest.json", json.dumps(changed).encode())
        with pytest.raises(AdapterInvalid, match="whole model"):
            fetch_tree(store, ID, tmp_path / "got")
        assert not (tmp_path / "got").exists()


class TestVerifying:
    def test_neither_kind_passes_for_the_other(
        self, store: LocalStore, folder: Path, manifest: Manifest, base: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(AdapterInvalid, match="whole model"):
            verify_tree(folder, manifest, MODEL_CONFIG)
        adapter = adapter_files.write(tmp_path / "adapter")
        refused(adapter, put_tree(store, "adapter-of-lora", adapter, **FACTS), base, "LoRA adapter")

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_weights_may_have_another_type_than_the_bases(
        self, dtype: str, manifest: Manifest, base: Path, tmp_path: Path
    ) -> None:
        folder = write_model(tmp_path / "typed", model_tensors(dtype), dtype="other", torch_dtype="other")
        verify_full(folder, manifest, base)

    def test_shards_need_not_be_the_bases(self, manifest: Manifest, tmp_path: Path) -> None:
        verify_full(write_model(tmp_path / "two", shards=2), manifest, write_model(tmp_path / "three", shards=3))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda tensors: tensors.pop(EMBEDDING), f"lacks the tensor {EMBEDDING}"),
            (lambda tensors: tensors.update(extra=tensor([2], "BF16")), "no tensor extra"),
            (lambda tensors: tensors.update({EMBEDDING: tensor([32, HIDDEN + 1], "BF16")}), "the base model's"),
            (lambda tensors: tensors.update({EMBEDDING: ("I32", [32, HIDDEN], b"\0" * 32 * HIDDEN * 4)}), "dtype I32"),
        ],
        ids=["missing", "extra", "shape", "dtype"],
    )
    def test_other_tensors_than_the_bases_are_refused(
        self, change: Callable[[Tensors], Any], reason: str, manifest: Manifest, base: Path, tmp_path: Path
    ) -> None:
        tensors = model_tensors()
        change(tensors)
        refused(write_model(tmp_path / "changed", tensors), manifest, base, reason)

    def test_a_tied_head_that_the_base_stores_twice_may_be_stored_once(
        self, manifest: Manifest, folder: Path, tmp_path: Path
    ) -> None:
        twice = model_tensors() | {"lm_head.weight": tensor([32, HIDDEN], "BF16")}
        verify_full(folder, manifest, write_model(tmp_path / "tied", twice))
        untied = write_model(tmp_path / "untied", twice, tie_word_embeddings=False)
        one = write_model(tmp_path / "one", tie_word_embeddings=False)
        refused(one, manifest, untied, r"lacks the tensor lm_head\.weight")

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_what_is_not_finite_is_refused(
        self, dtype: str, number: float, manifest: Manifest, base: Path, tmp_path: Path
    ) -> None:
        tensors = model_tensors(dtype)
        kind, shape, data = tensors[EMBEDDING]
        bad = adapter_files.value(dtype, number)
        tensors[EMBEDDING] = kind, shape, data[: -len(bad)] + bad
        refused(write_model(tmp_path / "bad", tensors), manifest, base, f"{EMBEDDING} holds NaN or infinity")

    @pytest.mark.parametrize("dtype", ["F32", "BF16"])
    def test_the_bound_is_two_to_the_seventeenth(
        self, dtype: str, manifest: Manifest, base: Path, tmp_path: Path
    ) -> None:
        verify_full(write_model(tmp_path / "large", model_tensors(dtype, -130048.0)), manifest, base)
        refused(write_model(tmp_path / "larger", model_tensors(dtype, -131072.0)), manifest, base, "beyond 131072")

    @pytest.mark.parametrize(
        "config", [{"hidden_size": 128}, {"rope_theta": 5}, {"auto_map": {"AutoModel": "evil.Model"}}]
    )
    def test_another_architecture_is_refused(
        self, config: dict[str, Any], manifest: Manifest, base: Path, tmp_path: Path
    ) -> None:
        refused(write_model(tmp_path / "other", **config), manifest, base, next(iter(config)))

    @pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{"])
    def test_a_config_that_cannot_be_read_is_refused(
        self, text: str, manifest: Manifest, folder: Path, base: Path
    ) -> None:
        (folder / "config.json").write_text(text)
        refused(folder, manifest, base, r"config\.json")

    def test_an_index_that_lies_is_refused(self, manifest: Manifest, base: Path, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "sharded", shards=2)
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        index["weight_map"][EMBEDDING] = "model-00002-of-00002.safetensors"
        path.write_text(json.dumps(index))
        refused(folder, manifest, base, "where its tensors are")
        path.write_text("{}")
        refused(folder, manifest, base, "cannot be read")

    def test_one_name_in_two_files_is_refused(self, manifest: Manifest, base: Path, tmp_path: Path) -> None:
        folder = write_model(tmp_path / "sharded", shards=2)
        shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
        refused(folder, manifest, base, "where its tensors are|same name")

    def test_a_base_without_safetensors_says_so(self, manifest: Manifest, folder: Path, base: Path) -> None:
        (base / "model.safetensors").unlink()
        refused(folder, manifest, base, "base model's weights cannot be compared")

    def test_the_config_that_is_written_for_a_model_fits(self, manifest: Manifest, folder: Path, base: Path) -> None:
        write_config(base, folder, "float32")
        assert json.loads((folder / "config.json").read_text()) == MODEL_CONFIG | {"dtype": "float32"}
        verify_full(folder, manifest, base)

    @limits(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_a_damaged_file_is_refused_or_still_a_model(
        self, data: st.DataObject, manifest: Manifest, folder: Path, base: Path
    ) -> None:
        whole = bytearray(safetensors(model_tensors()))
        place = data.draw(st.integers(0, 3000))
        whole[place] = data.draw(st.integers(0, 255))
        whole = whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1, place]))]
        (folder / "model.safetensors").write_bytes(whole)
        try:
            verify_full(folder, manifest, base)
        except AdapterInvalid:
            return
        assert len(whole) == len(safetensors(model_tensors()))
