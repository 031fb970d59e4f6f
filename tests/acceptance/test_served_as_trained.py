"""Served = trained, on the real vLLM: a job's model agrees with what its trainer wrote down, broken copies do not."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from safetensors.numpy import load_file, save_file

from rootstock import adapters, ids
from rootstock.adapters import Manifest
from rootstock.settings import Settings
from rootstock.storage import Store, open_store
from service.proving import Finding, examine
from tests.acceptance.conftest import Stack, finished, small_job

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def settings(stack: Stack) -> Settings:
    return Settings.from_env(stack.part("service").environ())


@pytest.fixture(scope="module")
def trained(stack: Stack, settings: Settings) -> Manifest:
    """The manifest of a job that succeeded."""
    client = stack.client
    job = finished(client, small_job(client, count=48, epochs=3).id)
    assert job.status == "succeeded", job.error
    store = open_store(settings)
    folders = {key.split("/")[1] for key in store.list("adapters/") if key.endswith("/manifest.json")}
    manifests = [adapters.read_manifest(store, name) for name in folders]
    (last,) = sorted((m for m in manifests if m.proof is not None), key=lambda m: m.created_at)[-1:]
    return last


def look(settings: Settings, manifest: Manifest) -> Finding:
    assert settings.vllm_server is not None and manifest.proof is not None
    with httpx.Client() as client:
        return examine(client, settings.vllm_server, manifest.adapter_id, manifest.base, manifest.proof)


def broken(store: Store, trained: Manifest, folder: Path, damage: Callable[[Path], None]) -> Manifest:
    """A copy of the adapter that was damaged, with the proof of the whole one."""
    adapters.fetch_tree(store, trained.adapter_id, folder)
    (folder / "manifest.json").unlink()
    damage(folder)
    facts = trained.model_dump(include={"base", "base_sha256", "template_sha256", "rank", "alpha", "target_modules"})
    facts |= {"alpha": json.loads((folder / CONFIG).read_text())["lora_alpha"], "recipe": {}, "proof": trained.proof}
    return adapters.put_tree(store, ids.new("lora-"), folder, **facts)


def wrong_alpha(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["lora_alpha"] *= 2
    (folder / CONFIG).write_text(json.dumps(config))


def dropped_layer(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    last = max(int(name.split(".layers.")[1].split(".")[0]) for name in tensors)
    save_file(
        {n: t * 0 if f".layers.{last}." in n and "lora_B" in n else t for n, t in tensors.items()}, folder / WEIGHTS
    )


def swapped_halves(folder: Path) -> None:
    """Rank components of A in another order than those of B, as a careless conversion makes them."""
    tensors = load_file(folder / WEIGHTS)
    save_file({n: t[::-1].copy() if "lora_A" in n else t for n, t in tensors.items()}, folder / WEIGHTS)


def test_a_job_s_model_is_the_one_that_was_trained(settings: Settings, trained: Manifest) -> None:
    finding = look(settings, trained)
    assert finding.fault is None and finding.comparison is not None
    assert finding.comparison.distance < 0.5 * finding.comparison.allowed
    assert finding.comparison.effect > 5 * finding.comparison.allowed


@pytest.mark.parametrize("damage", [wrong_alpha, dropped_layer, swapped_halves])
def test_other_weights_are_found_out(
    settings: Settings, trained: Manifest, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy = broken(open_store(settings), trained, tmp_path / "copy", damage)
    finding = look(settings, copy)
    assert finding.fault is not None and "answers otherwise than it did in training" in finding.fault


def test_a_truncated_file_never_gets_so_far(
    settings: Settings, trained: Manifest, tmp_path: Path, client: OpenAI
) -> None:
    store = open_store(settings)
    copy = broken(store, trained, tmp_path / "copy", lambda _: None)
    key = f"adapters/{copy.adapter_id}/{WEIGHTS}"
    store.put_bytes(key, store.get_bytes(key)[:-100])
    with pytest.raises(httpx.HTTPStatusError) as caught:
        look(settings, copy)
    assert caught.value.response.status_code in (400, 404)


@pytest.mark.parametrize("other", ["tokenizer", "template"])
def test_another_tokenizer_or_template_is_found_out(settings: Settings, trained: Manifest, other: str) -> None:
    proof = trained.proof
    assert proof is not None and proof.conversation is not None
    ids = proof.conversation
    spelled = ids[:5] + ids[6:] if other == "template" else [ids[0], *(token + 1 for token in ids[1:])]
    there = trained.model_copy(update={"proof": proof.model_copy(update={"conversation": spelled})})
    finding = look(settings, there)
    assert finding.fault is not None and "tokenizer or chat template" in finding.fault
