"""Whole models: which cache they come through, and the folder that vLLM is given."""

import json
from pathlib import Path
from typing import Any

import pytest

from rootstock.adapters import Manifest, put_tree
from rootstock.errors import AdapterInvalid, ConfigurationError
from rootstock.settings import Settings
from rootstock.storage import LocalStore
from serving.__main__ import fetch_model, full_arguments, vllm_environment
from serving.base import ServedBase
from serving.cache import AdapterCache
from serving.full import assemble
from tests.rootstock import adapter_files
from tests.rootstock.adapter_files import FULL_FACTS, ID, model_tensors, write_model
from tests.serving.test_main import pairs


@pytest.fixture
def base(tmp_path: Path) -> ServedBase:
    folder = write_model(tmp_path / "base", model_tensors(number=0.25), shards=2)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "merges.txt",
    ):
        (folder / name).write_text("{}")
    (folder / "README.md").write_text("A card.")
    return ServedBase.read(folder, name="tiny", max_rank=16)


@pytest.fixture
def facts(base: ServedBase) -> dict[str, Any]:
    return FULL_FACTS | {"base_sha256": base.sha256, "template_sha256": base.template_sha256}


@pytest.fixture
def stored(store: LocalStore, facts: dict[str, Any], tmp_path: Path) -> Manifest:
    return put_tree(store, ID, write_model(tmp_path / "model"), **facts)


@pytest.fixture
def full(store: LocalStore, folder: Path, base: ServedBase) -> AdapterCache:
    return AdapterCache(store, folder, base, kind="full")


def test_a_whole_model_is_fetched_verified_and_kept(
    stored: Manifest, store: LocalStore, full: AdapterCache, folder: Path
) -> None:
    path = full.fetch(ID)
    store.delete_prefix(f"adapters/{ID}")
    assert full.fetch(ID) == path == folder / ID


def test_the_adapters_server_refuses_it_and_says_how_to_serve_it(
    stored: Manifest, cache: AdapterCache, folder: Path
) -> None:
    with pytest.raises(AdapterInvalid, match=f"python -m serving --model {ID}"):
        cache.fetch(ID)
    assert not (folder / ID).exists()


def test_an_adapter_is_no_whole_model(store: LocalStore, full: AdapterCache, base: ServedBase, tmp_path: Path) -> None:
    facts = adapter_files.FACTS | {"base_sha256": base.sha256, "template_sha256": base.template_sha256}
    put_tree(store, ID, adapter_files.write(tmp_path / "adapter"), **facts)
    with pytest.raises(AdapterInvalid, match="LoRA adapter"):
        full.fetch(ID)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [(model_tensors(number=float("nan")), "NaN"), (dict(list(model_tensors().items())[1:]), "lacks the tensor")],
    ids=["nan", "missing"],
)
def test_one_that_must_not_be_served_is_refused(
    tensors: adapter_files.Tensors,
    reason: str,
    store: LocalStore,
    full: AdapterCache,
    facts: dict[str, Any],
    tmp_path: Path,
    folder: Path,
) -> None:
    put_tree(store, ID, write_model(tmp_path / "bad", tensors), **facts)
    with pytest.raises(AdapterInvalid, match=reason):
        full.fetch(ID)
    assert not (folder / ID).exists()


def test_one_of_another_base_is_refused(
    store: LocalStore, full: AdapterCache, facts: dict[str, Any], tmp_path: Path
) -> None:
    put_tree(store, ID, write_model(tmp_path / "model"), **facts | {"base_sha256": "0" * 64})
    with pytest.raises(AdapterInvalid, match="other weights"):
        full.fetch(ID)


class TestAssembling:
    def test_the_models_weights_come_with_the_bases_tokenizer(
        self, stored: Manifest, full: AdapterCache, base: ServedBase, folder: Path
    ) -> None:
        weights = full.fetch(ID)
        assembled = assemble(base, weights, folder)
        assert sorted(path.name for path in assembled.iterdir()) == [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "merges.txt",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        for name, origin in (("model.safetensors", weights), ("config.json", weights), ("tokenizer.json", base.folder)):
            assert (assembled / name).resolve() == origin / name
        assert full.fetch(ID) == weights  # the cached folder stays what its manifest says

    def test_the_models_own_generation_config_wins(self, base: ServedBase, tmp_path: Path) -> None:
        weights = write_model(tmp_path / "model-of-mine")
        (weights / "generation_config.json").write_text('{"top_k": 5}')
        assembled = assemble(base, weights, tmp_path / "cache")
        assert json.loads((assembled / "generation_config.json").read_text()) == {"top_k": 5}

    def test_a_base_that_has_moved_is_followed(self, base: ServedBase, tmp_path: Path) -> None:
        weights = write_model(tmp_path / "model-of-mine")
        assemble(base, weights, tmp_path / "cache")
        moved = base.folder.rename(tmp_path / "moved")
        (moved / "merges.txt").unlink()
        elsewhere = ServedBase.read(moved, name="tiny", max_rank=16)
        assembled = assemble(elsewhere, weights, tmp_path / "cache")
        assert (assembled / "tokenizer.json").resolve() == moved / "tokenizer.json"
        assert not (assembled / "merges.txt").is_symlink()


class TestStarting:
    @pytest.fixture
    def settings(self, base: ServedBase, tmp_path: Path) -> Settings:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "store").symlink_to(tmp_path / "store")
        return Settings(data_dir=tmp_path / "data", base_model=str(base.folder), base_model_name="tiny", vllm_port=9002)

    def test_it_is_served_under_its_id_without_adapters(
        self, stored: Manifest, base: ServedBase, settings: Settings
    ) -> None:
        model = fetch_model(settings, base, ID)
        flags = pairs(full_arguments(settings, "cpu", model, ID))
        assert (flags["--model"], flags["--served-model-name"], flags["--port"]) == (str(model), ID, "9002")
        assert flags["--chat-template"] == str(model / "chat_template.jinja")
        assert not [flag for flag in flags if "lora" in flag]
        variables = vllm_environment(settings, "cpu", cores=2, adapters=False)
        assert (variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], variables["VLLM_PLUGINS"]) == ("False", "rootstock")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("ft:base:org::abcdefgh", "is not the id of a stored model"),
            ("../../etc", "is not the id of a stored model"),
            ("adapter-unknown", "no such model in the store"),
        ],
    )
    def test_what_cannot_be_served_says_why(
        self, name: str, reason: str, stored: Manifest, base: ServedBase, settings: Settings
    ) -> None:
        with pytest.raises(ConfigurationError, match=reason):
            fetch_model(settings, base, name)

    def test_a_refused_model_says_why(
        self, store: LocalStore, facts: dict[str, Any], base: ServedBase, settings: Settings, tmp_path: Path
    ) -> None:
        put_tree(store, ID, write_model(tmp_path / "bad", model_tensors(number=float("inf"))), **facts)
        with pytest.raises(ConfigurationError, match=f"--model {ID}.*NaN or infinity"):
            fetch_model(settings, base, ID)
