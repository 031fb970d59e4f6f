"""Each way an adapter can be unfit to serve is made on purpose, and refused with its own sentence."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from rootstock.adapters import Manifest, put_tree, verify_tree
from rootstock.errors import AdapterInvalid
from rootstock.storage import LocalStore
from tests.rootstock.adapter_files import (
    BASE_CONFIG,
    FACTS,
    HIDDEN,
    ID,
    LAYERS,
    LAYERS_OF,
    RANK,
    good_tensors,
    name,
    safetensors,
    tensor,
    value,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "adapter")


@pytest.fixture
def manifest(store: LocalStore, folder: Path) -> Manifest:
    return put_tree(store, ID, folder, **FACTS)


def refused(folder: Path, manifest: Manifest, reason: str, config: dict[str, Any] | None = BASE_CONFIG) -> None:
    with pytest.raises(AdapterInvalid, match=reason):
        verify_tree(folder, manifest, config)


class TestVerify:
    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    def test_a_plain_adapter_passes(self, dtype: str, folder: Path, manifest: Manifest) -> None:
        write(folder, good_tensors(dtype))
        verify_tree(folder, manifest, BASE_CONFIG)
        verify_tree(folder, manifest, None)
        verify_tree(folder, manifest, {"model_type": "gemma3", "text_config": BASE_CONFIG})

    def test_target_modules_may_be_whole_names(self, store: LocalStore, folder: Path) -> None:
        parents = {"down_proj": "mlp"}
        whole = [
            f"model.layers.{n}.{parents.get(kind, 'self_attn')}.{kind}" for kind in LAYERS_OF for n in range(LAYERS)
        ]
        write(folder, target_modules=whole)
        verify_tree(folder, put_tree(store, ID, folder, **FACTS | {"target_modules": whole}), BASE_CONFIG)

    @pytest.mark.parametrize("stranger", ["adapter_model.bin", "new_embeddings.safetensors", "x.pt", "x.pkl"])
    def test_other_files_are_refused(self, stranger: str, folder: Path, manifest: Manifest) -> None:
        (folder / stranger).write_bytes(b"")
        refused(folder, manifest, stranger)

    @pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_a_single_value_that_is_not_finite_is_refused(
        self, number: float, dtype: str, folder: Path, manifest: Manifest
    ) -> None:
        tensors = good_tensors(dtype)
        kind, shape, data = tensors[name(1, "o_proj", "B")]
        width = len(value(dtype, 0))
        tensors[name(1, "o_proj", "B")] = kind, shape, data[:-width] + value(dtype, number)
        write(folder, tensors)
        refused(folder, manifest, "layers.1.*o_proj.*NaN or infinity")

    @pytest.mark.parametrize(("dtype", "number"), [("F32", 1e30), ("BF16", -4096.0), ("F16", 60000.0)])
    def test_a_huge_value_is_refused(self, dtype: str, number: float, folder: Path, manifest: Manifest) -> None:
        write(folder, good_tensors(dtype) | {name(0, "q_proj", "B"): tensor([128, RANK], dtype, number)})
        refused(folder, manifest, "beyond 1024")

    def test_another_hidden_size_is_refused_when_the_base_is_known(self, folder: Path, manifest: Manifest) -> None:
        write(folder, good_tensors() | {name(0, "q_proj", "A"): tensor([RANK, 32])})
        refused(folder, manifest, r"layers.0.self_attn.q_proj maps 32 to 128, the base model's layer 64 to 128")
        verify_tree(folder, manifest, None)

    def test_other_key_value_heads_are_refused(self, folder: Path, manifest: Manifest) -> None:
        refused(folder, manifest, "v_proj maps 64 to 64", BASE_CONFIG | {"num_key_value_heads": 4})

    def test_another_inner_size_is_refused(self, folder: Path, manifest: Manifest) -> None:
        refused(folder, manifest, "down_proj maps 128 to 64", BASE_CONFIG | {"intermediate_size": 256})

    def test_a_layer_that_the_base_lacks_is_refused(self, folder: Path, manifest: Manifest) -> None:
        refused(folder, manifest, "no layer model.layers.1", BASE_CONFIG | {"num_hidden_layers": 1})

    def test_a_family_with_other_layers_is_checked_without_dimensions(self, folder: Path, manifest: Manifest) -> None:
        verify_tree(folder, manifest, {"model_type": "deepseek_v3"})

    def test_another_rank_in_the_tensors_is_refused(self, folder: Path, manifest: Manifest) -> None:
        write(folder, good_tensors() | {name(0, "q_proj", "A"): tensor([RANK * 2, HIDDEN])})
        refused(folder, manifest, "not of rank 4")

    def test_a_matrix_without_its_counterpart_is_refused(self, folder: Path, manifest: Manifest) -> None:
        tensors = good_tensors()
        del tensors[name(1, "v_proj", "B")]
        write(folder, tensors)
        refused(folder, manifest, "v_proj has lora_A but not its counterpart")

    @pytest.mark.parametrize(
        "stranger",
        [
            "base_model.model.lm_head.weight",
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
        ],
    )
    def test_tensors_beside_the_target_modules_are_refused(
        self, stranger: str, folder: Path, manifest: Manifest
    ) -> None:
        write(folder, good_tensors() | {stranger: tensor([RANK, HIDDEN])})
        refused(folder, manifest, "belongs to none of the target modules")

    def test_no_tensors_at_all_are_refused(self, folder: Path, manifest: Manifest) -> None:
        write(folder, {})
        refused(folder, manifest, "no tensors")

    def test_an_integer_tensor_is_refused(self, folder: Path, manifest: Manifest) -> None:
        write(folder, good_tensors() | {name(0, "q_proj", "A"): ("I8", [RANK, HIDDEN], b"\0" * RANK * HIDDEN)})
        refused(folder, manifest, "dtype I8")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"r": 8}, "rank is 8, the manifest says 4"),
            ({"lora_alpha": 16}, "lora_alpha is 16, the manifest says 8"),
            ({"lora_alpha": 1e30}, "lora_alpha 1e\\+30 is out of range"),
            ({"lora_alpha": float("nan")}, "lora_alpha nan is out of range"),
            ({"lora_alpha": 0}, "lora_alpha 0 is out of range"),
            ({"lora_alpha": None}, "cannot be read"),
            ({"base_model_name_or_path": "other"}, "made for base model 'other', not for 'tiny'"),
            ({"target_modules": ["q_proj"]}, "target_modules are"),
            ({"target_modules": "all-linear"}, "target_modules are"),
            ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
            ({"bias": "all"}, "uses bias"),
            ({"use_dora": True}, "uses use_dora"),
            ({"lora_bias": True}, "uses lora_bias"),
            ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
            ({"init_lora_weights": "pissa"}, "uses init_lora_weights"),
            ({"rank_pattern": {"q_proj": 2}}, "uses rank_pattern"),
            ({"alpha_pattern": {"q_proj": 1e30}}, "uses alpha_pattern"),
            ({"layer_replication": [[0, 1]]}, "uses layer_replication"),
            ({"alora_invocation_tokens": [1]}, "uses alora_invocation_tokens"),
            ({"trainable_token_indices": [1]}, "uses trainable_token_indices"),
        ],
    )
    def test_a_configuration_that_is_not_the_manifests_or_not_plain_lora_is_refused(
        self, change: dict[str, Any], reason: str, folder: Path, manifest: Manifest
    ) -> None:
        write(folder, **change)
        refused(folder, manifest, reason)

    def test_an_alpha_that_manifest_and_config_agree_on_must_be_sane_too(self, store: LocalStore, folder: Path) -> None:
        write(folder, lora_alpha=1e30)
        refused(folder, put_tree(store, ID, folder, **FACTS | {"alpha": 1e30}), "out of range")

    @pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000, '{"r": 4}'], ids=range(5))
    def test_an_unreadable_configuration_is_refused(self, text: str, folder: Path, manifest: Manifest) -> None:
        (folder / "adapter_config.json").write_text(text)
        refused(folder, manifest, "cannot be read")

    @pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
    def test_a_missing_file_is_refused(self, file: str, folder: Path, manifest: Manifest) -> None:
        (folder / file).unlink()
        refused(folder, manifest, f"{file} is missing")

    @pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
    def test_a_truncated_file_is_refused(self, keep: int, folder: Path, manifest: Manifest) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        refused(folder, manifest, "cut short")

    def test_bytes_after_the_tensors_are_refused(self, folder: Path, manifest: Manifest) -> None:
        with (folder / "adapter_model.safetensors").open("ab") as file:
            file.write(b"\0")
        refused(folder, manifest, "longer than its tensors")

    @pytest.mark.parametrize(
        "entry",
        [
            "x",
            {},
            {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
            {"dtype": "F32", "shape": "wide", "data_offsets": [0, 4]},
            {"dtype": "F32", "shape": [1], "data_offsets": [0]},
            {"dtype": "F32", "shape": [1], "data_offsets": None},
        ],
    )
    def test_a_header_that_makes_no_sense_is_refused(self, entry: Any, folder: Path, manifest: Manifest) -> None:
        (folder / "adapter_model.safetensors").write_bytes(safetensors(good_tensors(), bad=entry))
        refused(folder, manifest, "header")

    @pytest.mark.parametrize("offsets", [[0, 4], [10**9, 10**9 + 4], [-4, 0]])
    def test_overlapping_or_distant_tensors_are_refused(
        self, offsets: list[int], folder: Path, manifest: Manifest
    ) -> None:
        entry = {"dtype": "F32", "shape": [1], "data_offsets": offsets}
        (folder / "adapter_model.safetensors").write_bytes(safetensors(good_tensors(), bad=entry))
        refused(folder, manifest, "does not lie where the header")

    def test_a_pickle_under_the_name_of_weights_is_refused_unread(
        self, folder: Path, manifest: Manifest, tmp_path: Path
    ) -> None:
        canary = tmp_path / "canary"

        class Evil:
            def __reduce__(self) -> Any:
                return (canary.touch, ())

        (folder / "adapter_model.safetensors").write_bytes(pickle.dumps(Evil()))
        refused(folder, manifest, "no safetensors file")
        assert not canary.exists()
