"""The adapter cache: what gets in, what never does, and what several callers see."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rootstock import telemetry
from rootstock.adapters import Manifest, put_tree, verify_tree
from rootstock.errors import AdapterInvalid, ObjectNotFound, StoreError
from rootstock.storage import LocalStore
from serving.base import ServedBase
from serving.cache import AdapterCache
from tests.rootstock.adapter_files import BASE_CONFIG, ID, RANK, good_tensors, tensor, write


class CountingStore(LocalStore):
    """Counts downloads of weights and can hold them up until told to go on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.downloads = 0
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def get(self, key: str) -> Iterator[bytes]:
        if key.endswith(".safetensors"):
            self.downloads += 1
            self.asked.set()
            assert self.go_on.wait(10)
        return super().get(key)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def scratch(folder: Path) -> list[str]:
    return [path.name for path in (folder / ".unfinished").iterdir()]


class TestFetching:
    def test_the_first_fetch_downloads_and_the_next_is_local(
        self, stored: Manifest, store: LocalStore, cache: AdapterCache, folder: Path
    ) -> None:
        path = cache.fetch(ID)
        verify_tree(path, stored, BASE_CONFIG)
        store.delete_prefix(f"adapters/{ID}")
        assert cache.fetch(ID) == path == folder / ID
        assert scratch(folder) == []

    def test_a_restarted_process_finds_what_is_on_disk(
        self, stored: Manifest, store: LocalStore, cache: AdapterCache, folder: Path, base: ServedBase
    ) -> None:
        path = cache.fetch(ID)
        store.delete_prefix(f"adapters/{ID}")
        assert AdapterCache(store, folder, base).fetch(ID) == path

    def test_every_outcome_is_counted(self, stored: Manifest, cache: AdapterCache) -> None:
        def count(result: str) -> float:
            return telemetry.ADAPTER_FETCHES.labels(result)._value.get()

        before = {result: count(result) for result in ("downloaded", "cached", "absent")}
        cache.fetch(ID)
        cache.fetch(ID)
        with pytest.raises(ObjectNotFound):
            cache.fetch("adapter-unknown")
        assert {result: count(result) - number for result, number in before.items()} == dict.fromkeys(before, 1)


class TestRefusals:
    @pytest.mark.parametrize(
        "name",
        [
            "",
            "..",
            "../store/adapters/" + ID,
            "/etc/passwd",
            ID + "/..",
            "A" * 20,
            "short",
            "a" * 65,
            ID + "\n",
            ".identity",
        ],
    )
    def test_only_adapter_ids_are_looked_up(self, name: str, cache: AdapterCache, folder: Path) -> None:
        with pytest.raises(AdapterInvalid, match="not an adapter id"):
            cache.fetch(name)
        assert visible(folder) == []

    def test_an_unknown_id_is_absent(self, cache: AdapterCache, folder: Path) -> None:
        with pytest.raises(ObjectNotFound):
            cache.fetch("adapter-unknown")
        assert visible(folder) == scratch(folder) == []

    def test_half_an_adapter_is_absent(
        self, stored: Manifest, store: LocalStore, cache: AdapterCache, folder: Path
    ) -> None:
        store.delete(f"adapters/{ID}/manifest.json")
        with pytest.raises(ObjectNotFound):
            cache.fetch(ID)
        assert visible(folder) == []

    def test_a_flipped_byte_is_refused(
        self, stored: Manifest, store: LocalStore, cache: AdapterCache, folder: Path
    ) -> None:
        key = f"adapters/{ID}/adapter_model.safetensors"
        weights = bytearray(store.get_bytes(key))
        weights[-1] ^= 1
        store.put_bytes(key, bytes(weights))
        with pytest.raises(AdapterInvalid, match="SHA-256"):
            cache.fetch(ID)
        assert visible(folder) == scratch(folder) == []

    def test_nan_is_refused_although_the_hash_is_right(
        self, store: LocalStore, cache: AdapterCache, facts: dict[str, object], tmp_path: Path, folder: Path
    ) -> None:
        tensors = good_tensors()
        first = next(iter(tensors))
        tensors[first] = tensor(tensors[first][1], number=float("nan"))
        put_tree(store, ID, write(tmp_path / "bad", tensors), **facts)  # type: ignore[arg-type]
        with pytest.raises(AdapterInvalid, match="NaN"):
            cache.fetch(ID)
        assert visible(folder) == scratch(folder) == []

    @pytest.mark.parametrize(
        ("fact", "value", "reason"),
        [
            ("base", "other", "made for base model 'other'"),
            ("base_sha256", "0" * 64, "other weights"),
            ("template_sha256", "0" * 64, "another chat template"),
        ],
    )
    def test_an_adapter_of_another_base_is_refused_before_it_is_downloaded(
        self, fact: str, value: str, reason: str, tmp_path: Path, base: ServedBase, facts: dict[str, object]
    ) -> None:
        store = CountingStore(tmp_path / "counting")
        put_tree(store, ID, write(tmp_path / "bad"), **(facts | {fact: value}))  # type: ignore[arg-type]
        with pytest.raises(AdapterInvalid, match=reason):
            AdapterCache(store, tmp_path / "cache", base).fetch(ID)
        assert store.downloads == 0

    def test_a_rank_above_the_limit_names_the_setting(
        self, stored: Manifest, store: LocalStore, folder: Path, base: ServedBase
    ) -> None:
        strict = dataclasses.replace(base, max_rank=RANK - 1)
        with pytest.raises(AdapterInvalid, match="ROOTSTOCK_MAX_LORA_RANK"):
            AdapterCache(store, folder, strict).fetch(ID)

    def test_a_cached_adapter_is_refused_once_the_base_has_changed(
        self, stored: Manifest, store: LocalStore, cache: AdapterCache, folder: Path, base: ServedBase
    ) -> None:
        cache.fetch(ID)
        with pytest.raises(AdapterInvalid, match="other weights"):
            AdapterCache(store, folder, dataclasses.replace(base, sha256="f" * 64)).fetch(ID)

    @pytest.mark.parametrize("damage", ["no manifest", "bad manifest", "no weights", "flipped byte", "truncated"])
    def test_a_damaged_cached_adapter_is_fetched_again(
        self, damage: str, stored: Manifest, cache: AdapterCache, folder: Path
    ) -> None:
        path = cache.fetch(ID)
        weights = path / "adapter_model.safetensors"
        whole = weights.read_bytes()
        if "manifest" in damage:
            (path / "manifest.json").write_bytes(b"{" if damage == "bad manifest" else b"")
        elif damage == "no weights":
            weights.unlink()
        else:
            weights.write_bytes(whole[:-1] + (b"" if damage == "truncated" else bytes([whole[-1] ^ 1])))
        assert cache.fetch(ID) == path
        assert weights.read_bytes() == whole
        assert visible(folder) == [ID] and scratch(folder) == []

    def test_a_damaged_cached_adapter_stays_while_the_store_is_away(
        self, stored: Manifest, store: LocalStore, cache: AdapterCache, folder: Path
    ) -> None:
        path = cache.fetch(ID)
        (path / "manifest.json").unlink()
        store.delete_prefix(f"adapters/{ID}")
        with pytest.raises(ObjectNotFound):
            cache.fetch(ID)
        assert visible(folder) == [ID]  # a vLLM may be holding it

    def test_a_store_that_is_away_is_not_an_absent_adapter(
        self, stored: Manifest, store: LocalStore, cache: AdapterCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(_: str) -> int:
            raise StoreError("away")

        monkeypatch.setattr(store, "size", away)
        with pytest.raises(StoreError) as caught:
            cache.fetch(ID)
        assert not isinstance(caught.value, ObjectNotFound)
        monkeypatch.undo()
        assert cache.fetch(ID).is_dir()


class TestConcurrency:
    def test_threads_share_one_download(
        self, tmp_path: Path, base: ServedBase, facts: dict[str, object], folder: Path
    ) -> None:
        store = CountingStore(tmp_path / "counting")
        put_tree(store, ID, write(tmp_path / "adapter"), **facts)  # type: ignore[arg-type]
        cache = AdapterCache(store, folder, base)
        store.go_on.clear()
        with ThreadPoolExecutor(8) as threads:
            paths = [threads.submit(cache.fetch, ID) for _ in range(8)]
            assert store.asked.wait(10)
            store.go_on.set()
            assert {path.result() for path in paths} == {folder / ID}
        assert store.downloads == 1

    def test_a_failed_download_fails_all_who_wait_and_none_who_come_later(
        self, tmp_path: Path, base: ServedBase, facts: dict[str, object], folder: Path
    ) -> None:
        store = CountingStore(tmp_path / "counting")
        put_tree(store, ID, write(tmp_path / "adapter"), **facts)  # type: ignore[arg-type]
        key = f"adapters/{ID}/adapter_model.safetensors"
        good = store.get_bytes(key)
        store.put_bytes(key, b"\0" * len(good))
        cache = AdapterCache(store, folder, base)
        with pytest.raises(AdapterInvalid):
            cache.fetch(ID)
        store.put_bytes(key, good)
        assert cache.fetch(ID).is_dir()

    def test_two_processes_on_one_folder_end_with_one_whole_adapter(
        self, tmp_path: Path, base: ServedBase, facts: dict[str, object], folder: Path
    ) -> None:
        # Two caches share nothing but the folder, as two processes do.
        slow, fast = CountingStore(tmp_path / "counting"), LocalStore(tmp_path / "counting")
        manifest = put_tree(fast, ID, write(tmp_path / "adapter"), **facts)  # type: ignore[arg-type]
        loser, winner = AdapterCache(slow, folder, base), AdapterCache(fast, folder, base)
        slow.go_on.clear()
        with ThreadPoolExecutor(1) as threads:
            late = threads.submit(loser.fetch, ID)
            assert slow.asked.wait(10)
            assert visible(folder) == []  # a download under way cannot be seen
            path = winner.fetch(ID)
            inode = (path / "adapter_model.safetensors").stat().st_ino
            slow.go_on.set()
            assert late.result() == path
        assert (path / "adapter_model.safetensors").stat().st_ino == inode  # the winner's copy was not touched
        verify_tree(path, manifest, base.config)
        assert scratch(folder) == []


def test_what_a_killed_process_left_is_cleared_away_when_it_is_old(
    store: LocalStore, cache: AdapterCache, folder: Path, base: ServedBase
) -> None:
    old, young = folder / ".unfinished" / "old", folder / ".unfinished" / "young"
    for path in (old, young):
        path.mkdir()
        (path / "adapter_model.safetensors").write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    AdapterCache(store, folder, base)
    assert scratch(folder) == ["young"]


class TestPolicies:
    def test_versions_of_a_policy_go_after_a_while_and_nothing_else_does(
        self,
        store: LocalStore,
        folder: Path,
        base: ServedBase,
        facts: dict[str, object],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def put(name: str, *, ephemeral: bool) -> str:
            put_tree(store, name, write(tmp_path / name), ephemeral=ephemeral, **facts)  # type: ignore[arg-type]
            return name

        cache = AdapterCache(store, folder, base)
        versions = [put(f"lora-policy-000{number}", ephemeral=True) for number in (1, 2, 3)]
        kept = put("lora-tuned-0001", ephemeral=False)
        for name in (versions[0], kept, versions[1]):
            cache.fetch(name)
        assert visible(folder) == sorted([*versions[:2], kept])
        cache.shelf.close()
        restarted = AdapterCache(store, folder, base)  # knows what it finds
        monkeypatch.setattr("serving.cache.EPHEMERAL_SECONDS", -1.0)
        restarted.fetch(versions[2])
        assert visible(folder) == [kept]


def test_a_request_that_came_and_went_while_another_was_removed_keeps_its_files(
    store: LocalStore, folder: Path, base: ServedBase, facts: dict[str, object], tmp_path: Path
) -> None:
    """The remover's thread may be held up after vLLM forgot the adapter: by then vLLM may know it anew."""
    for name in ("lora-here", "lora-next"):
        put_tree(store, name, write(tmp_path / name), **facts)  # type: ignore[arg-type]
    cache = AdapterCache(store, folder, base, limit=1)
    cache.fetch("lora-here")

    def forgets(adapter_id: str) -> bool:
        cache.begin(adapter_id)
        cache.fetch(adapter_id)
        cache.end(adapter_id)
        return True

    cache.forgets = forgets
    cache.fetch("lora-next")
    assert "lora-here" in visible(folder) and "lora-here" in cache.resident()
