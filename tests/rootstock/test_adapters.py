"""An adapter's way into the store and out again, and what identifies a base model."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootstock.adapters import (
    Manifest,
    base_fingerprint,
    fetch_tree,
    put_tree,
    read_manifest,
    template_sha256,
    verify_tree,
)
from rootstock.errors import AdapterInvalid, ObjectNotFound
from rootstock.storage import LocalStore
from tests.rootstock.adapter_files import BASE_CONFIG, FACTS, ID, write


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "adapter")


@pytest.fixture
def manifest(store: LocalStore, folder: Path) -> Manifest:
    return put_tree(store, ID, folder, **FACTS)


class TestRoundTrip:
    def test_an_adapter_comes_back_byte_for_byte(
        self, store: LocalStore, folder: Path, manifest: Manifest, tmp_path: Path
    ) -> None:
        assert fetch_tree(store, ID, tmp_path / "got") == manifest == read_manifest(store, ID)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            data = (folder / file).read_bytes()
            assert (tmp_path / "got" / file).read_bytes() == data
            assert manifest.files[file].sha256 == hashlib.sha256(data).hexdigest()
            assert manifest.files[file].bytes == len(data)
        verify_tree(tmp_path / "got", manifest, BASE_CONFIG)

    def test_the_model_card_that_peft_writes_stays_behind(self, store: LocalStore, folder: Path) -> None:
        (folder / "README.md").write_text("card")
        put_tree(store, ID, folder, **FACTS)
        assert [key.rpartition("/")[2] for key in store.list(f"adapters/{ID}")] == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "manifest.json",
        ]

    def test_the_manifest_is_written_last(self, folder: Path, tmp_path: Path) -> None:
        order: list[str] = []

        class Recording(LocalStore):
            def put(self, key: str, chunks: Any) -> int:
                order.append(key.rpartition("/")[2])
                return super().put(key, chunks)

        put_tree(Recording(tmp_path / "store"), ID, folder, **FACTS)
        assert order[-1] == "manifest.json"
        assert len(order) == 3

    def test_half_an_adapter_is_absent(self, store: LocalStore, manifest: Manifest, tmp_path: Path) -> None:
        store.delete(f"adapters/{ID}/manifest.json")
        with pytest.raises(ObjectNotFound):
            read_manifest(store, ID)
        with pytest.raises(ObjectNotFound):
            fetch_tree(store, ID, tmp_path / "got")

    def test_an_adapter_is_never_replaced(self, store: LocalStore, folder: Path, manifest: Manifest) -> None:
        with pytest.raises(AdapterInvalid, match="exists already"):
            put_tree(store, ID, folder, **FACTS)

    @pytest.mark.parametrize(
        "adapter_id", ["../../etc", "short", "ft:x:y:z:12345678", "A" * 20, "a" * 65, "", "a/b-cdefgh"]
    )
    def test_only_adapter_ids_are_looked_up(self, adapter_id: str, store: LocalStore) -> None:
        with pytest.raises(AdapterInvalid, match="not an adapter id"):
            read_manifest(store, adapter_id)

    @pytest.mark.parametrize("stranger", ["adapter_model.bin", "optimizer.pt", "model.pkl", "code.py", "sub"])
    def test_a_folder_with_anything_else_is_not_stored(self, stranger: str, store: LocalStore, folder: Path) -> None:
        (folder / stranger).write_bytes(pickle.dumps("x"))
        with pytest.raises(AdapterInvalid, match=stranger):
            put_tree(store, ID, folder, **FACTS)
        assert store.list("") == []

    def test_a_folder_without_weights_is_not_stored(self, store: LocalStore, folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        with pytest.raises(AdapterInvalid, match=r"no adapter_model\.safetensors"):
            put_tree(store, ID, folder, **FACTS)

    @pytest.mark.parametrize(
        "facts", [{"alpha": float("nan")}, {"rank": 0}, {"target_modules": []}, {"base_sha256": "x"}]
    )
    def test_impossible_facts_are_refused(self, facts: dict[str, Any], store: LocalStore, folder: Path) -> None:
        with pytest.raises(AdapterInvalid, match=next(iter(facts))):
            put_tree(store, ID, folder, **FACTS | facts)
        with pytest.raises(ObjectNotFound):
            read_manifest(store, ID)


class TestTampering:
    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda data: data[:-1], "shorter"),
            (lambda data: data + b"x", "longer"),
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "SHA-256"),
        ],
    )
    def test_changed_bytes_are_refused(
        self, spoil: Callable[[bytes], bytes], reason: str, store: LocalStore, manifest: Manifest, tmp_path: Path
    ) -> None:
        key = f"adapters/{ID}/adapter_model.safetensors"
        store.put_bytes(key, spoil(store.get_bytes(key)))
        with pytest.raises(AdapterInvalid, match=reason):
            fetch_tree(store, ID, tmp_path / "got")

    def test_a_file_that_is_gone_is_refused(self, store: LocalStore, manifest: Manifest, tmp_path: Path) -> None:
        store.delete(f"adapters/{ID}/adapter_config.json")
        with pytest.raises(AdapterInvalid, match=r"lacks adapter_config\.json"):
            fetch_tree(store, ID, tmp_path / "got")

    @pytest.mark.parametrize("path", ["../../outside", "/etc/cron.d/x", "adapter_model.bin", "manifest.json"])
    def test_a_manifest_cannot_name_other_files(
        self, path: str, store: LocalStore, manifest: Manifest, tmp_path: Path
    ) -> None:
        changed = manifest.model_dump()
        changed["files"][path] = changed["files"]["adapter_config.json"]
        store.put_bytes(f"adapters/{ID}/manifest.json", json.dumps(changed).encode())
        with pytest.raises(AdapterInvalid, match="consists of"):
            fetch_tree(store, ID, tmp_path / "got")
        assert not (tmp_path / "got").exists()

    @pytest.mark.parametrize(
        "text", ["", "{}", "[" * 100_000, '{"version": 2}', "\xff", "x" * (1024 * 1024 + 1)], ids=range(6)
    )
    def test_a_manifest_that_makes_no_sense_is_refused(self, text: str, store: LocalStore) -> None:
        store.put_bytes(f"adapters/{ID}/manifest.json", text.encode("latin-1"))
        with pytest.raises(AdapterInvalid, match="manifest"):
            read_manifest(store, ID)

    def test_a_manifest_of_another_adapter_is_refused(self, store: LocalStore, manifest: Manifest) -> None:
        shutil.copytree(store.root / "adapters" / ID, store.root / "adapters" / "another-adapter")
        with pytest.raises(AdapterInvalid, match=f"belongs to {ID}"):
            read_manifest(store, "another-adapter")


class TestBase:
    def base(self, folder: Path, weights: bytes = b"w", config: str = "{}") -> Path:
        folder.mkdir()
        (folder / "config.json").write_text(config)
        (folder / "model.safetensors").write_bytes(weights)
        return folder

    def test_the_fingerprint_tells_bases_apart_and_knows_a_copy(self, tmp_path: Path) -> None:
        one = base_fingerprint(self.base(tmp_path / "one"))
        assert one == base_fingerprint(self.base(tmp_path / "copy"))
        others = {
            base_fingerprint(self.base(tmp_path / "weights", weights=b"v")),
            base_fingerprint(self.base(tmp_path / "config", config="{ }")),
        }
        assert len({one, *others}) == 3

    def test_the_fingerprint_sees_both_ends_of_a_large_file(self, tmp_path: Path) -> None:
        data = bytes(3 << 20)
        found = {
            base_fingerprint(self.base(tmp_path / name, weights=weights))
            for name, weights in {"a": data, "b": b"x" + data[1:], "c": data[:-1] + b"x", "d": data + b"\0"}.items()
        }
        assert len(found) == 4

    def test_the_template_of_a_folder_and_its_text_have_one_hash(self, tmp_path: Path) -> None:
        text = "{% for message in messages %}{{ message.content }}{% endfor %}"
        wanted = hashlib.sha256(text.encode()).hexdigest()
        assert template_sha256(text) == wanted
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
        assert template_sha256(tmp_path) == template_sha256(str(tmp_path)) == wanted
        named = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": text}]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
        assert template_sha256(tmp_path) == wanted
        (tmp_path / "chat_template.jinja").write_text("another")
        assert template_sha256(tmp_path) == hashlib.sha256(b"another").hexdigest()
