"""`python -m trainer merge`: equal to the adapter on its base, or not there; what it is refused for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear
from transformers import AutoModelForCausalLM, AutoTokenizer

from rootstock import adapters
from rootstock.adapters import base_fingerprint, fetch_tree, put_tree, template_sha256
from rootstock.errors import AdapterInvalid, ConfigurationError, ExportFailed
from rootstock.storage import LocalStore
from tests.trainer.looping import recipe_for
from trainer import merge as merging
from trainer.__main__ import main
from trainer.base import Base, load_base
from trainer.engine import PackedEngine
from trainer.merge import EXACT, ROUNDED, Gap, Merged, gap, log_probs, merge

TINY = Path("examples/base/rootstock-tiny")
ADAPTER_ID = "lora-to-be-merged"


@pytest.fixture(scope="module")
def tiny() -> Base:
    return load_base(str(TINY), name="rootstock-tiny", device="cpu", dtype="float32", threads=1)


def exported(folder: Path, base: Base, *, noise: float = 0.05, **asked: Any) -> Path:
    """An adapter whose two halves are not zero, as it lies in a folder after its export."""
    recipe = recipe_for(base, 10, **asked)
    with PackedEngine(base) as engine:
        slot = engine.open(recipe)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            slot.weights.master.add_(torch.randn(slot.weights.size, generator=generator) * noise)
        targets = engine.save(folder / "peft", slot, recipe, slot.weights.tensors())
        engine.close(slot)
    store = LocalStore(folder / "store")
    facts: dict[str, Any] = {"rank": recipe.rank, "alpha": recipe.alpha, "target_modules": targets}
    put_tree(store, ADAPTER_ID, folder / "peft", **facts, **identity(base), recipe=recipe.to_json())
    fetch_tree(store, ADAPTER_ID, folder / "tuned")
    return folder / "tuned"


def identity(base: Base) -> dict[str, Any]:
    return {"base": base.name, "base_sha256": base.fingerprint, "template_sha256": base.template_sha256}


def run(tuned: Path, base: Path | str, out: Path) -> Merged:
    return merge(tuned, str(base), out, device="cpu", threads=1)


def answers(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, torch.Tensor]:
    """A model as anybody loads it, and its logits for some tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        return model, model(input_ids=torch.arange(5, 60)[None]).logits


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("rslora", [False, True])
def test_merged_answers_as_the_adapter_on_its_base(base: Base, base_folder: Path, tmp_path: Path, rslora: bool) -> None:
    tuned = exported(tmp_path, base, rank=16, rslora=rslora)
    assert json.loads((tuned / "adapter_config.json").read_text())["use_rslora"] is rslora
    found = run(tuned, base_folder, tmp_path / "merged")
    assert found.measures is not None and found.measures.saved.within(EXACT)
    assert found.measures.effect.mean > 100 * EXACT.mean, "an adapter that does nothing proves nothing"
    _, merged = answers(tmp_path / "merged")
    plain, untuned = answers(base_folder)
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(plain, str(tuned))(input_ids=torch.arange(5, 60)[None]).logits
    torch.testing.assert_close(merged, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, untuned, atol=0.1)


def test_the_built_in_base_stays_in_its_type_with_its_tokenizer_and_template(tiny: Base, tmp_path: Path) -> None:
    tuned = exported(tmp_path, tiny)
    found = run(tuned, TINY, tmp_path / "merged")
    assert found.dtype is torch.bfloat16 and found.same_template
    assert found.measures is not None and found.measures.exact.within(EXACT)
    assert found.measures.saved.within(ROUNDED[torch.bfloat16])
    assert left_in(tmp_path / "merged") == left_in(TINY)[1:]  # all but its README
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (TINY / name).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert template_sha256(tokenizer.chat_template) == tiny.template_sha256
    assert base_fingerprint(tmp_path / "merged") != tiny.fingerprint


def test_it_leaves_the_adapter_as_it_was_and_says_what_it_measured(
    tiny: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = exported(tmp_path, tiny, type="qlora")
    before = {path.name: path.read_bytes() for path in tuned.iterdir()}
    monkeypatch.setenv("ROOTSTOCK_TRAINER_DEVICE", "cpu")
    assert main(["merge", "--adapter", str(tuned), "--out", str(tmp_path / "merged")]) == 0
    assert {path.name: path.read_bytes() for path in tuned.iterdir()} == before
    said = capsys.readouterr().out
    assert "merged into rootstock-tiny, saved in bfloat16" in said
    assert "merged in float32, to adapter on base    mean " in said and "allowed: mean 1.0e-04, largest 2.0e-03" in said
    assert "note: QLoRA, trained on rootstock-tiny with its linear layers in four bits" in said


def twice(delta: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *args: 2 * delta(*args)


def one_layer_wrong(delta: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    seen = []

    def wrong(*args: Any) -> torch.Tensor:
        seen.append(1)
        return delta(*args) * (0 if len(seen) == 3 else 1)

    return wrong


def poisoned(delta: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *args: delta(*args) * float("nan")


@pytest.mark.parametrize("mistake", [twice, one_layer_wrong])
def test_a_wrong_merge_is_caught_and_nothing_is_kept(
    base: Base,
    base_folder: Path,
    tmp_path: Path,
    mistake: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tuned = exported(tmp_path, base)
    monkeypatch.setattr(Linear, "get_delta_weight", mistake(Linear.get_delta_weight))
    monkeypatch.setenv("ROOTSTOCK_TRAINER_DEVICE", "cpu")
    out = tmp_path / "merged"
    assert main(["merge", "--adapter", str(tuned), "--base", str(base_folder), "--out", str(out)]) == 1
    assert "in float32, does not answer as the adapter on its base" in capsys.readouterr().err
    assert left_in(tmp_path) == ["peft", "store", "tuned"]


def test_a_merge_that_is_no_number_is_caught(
    base: Base, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = exported(tmp_path, base)
    monkeypatch.setattr(Linear, "get_delta_weight", poisoned(Linear.get_delta_weight))
    with pytest.raises(AdapterInvalid, match="cannot be merged into tiny-random: NaNs detected"):
        run(tuned, base_folder, tmp_path / "merged")
    assert not Gap(float("nan"), 0.0).within(EXACT)


def test_what_is_wrong_on_disk_is_caught_also_where_an_adapter_does_little(
    tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = exported(tmp_path, tiny, noise=0.005)
    out = tmp_path / "merged"
    out.mkdir()

    def base_again(folder: Path, made: Path) -> None:
        for path in folder.iterdir():
            shutil.copyfile(path, made / path.name)

    monkeypatch.setattr(merging, "_copy_base", base_again)
    with pytest.raises(ExportFailed, match="read back from disk, does not answer as it did before"):
        run(tuned, TINY, out)
    assert left_in(out) == []


def test_an_adapter_that_rounding_undoes_is_told(tiny: Base, tmp_path: Path) -> None:
    tuned = exported(tmp_path, tiny, noise=1e-5)
    found = run(tuned, TINY, tmp_path / "merged")
    assert "so little that rounding to bfloat16 undoes half of it or more" in "\n".join(found.lines())


def test_another_base_is_refused_by_its_fingerprint(base: Base, tmp_path: Path) -> None:
    tuned = exported(tmp_path, base)
    with pytest.raises(ConfigurationError, match=rf"not the base model .* tiny-random, SHA-256 {base.fingerprint}"):
        run(tuned, TINY, tmp_path / "merged")
    with pytest.raises(ConfigurationError, match="holds no base model"):
        run(tuned, tmp_path, tmp_path / "merged")
    assert left_in(tmp_path) == ["peft", "store", "tuned"]


def test_a_damaged_adapter_is_refused(base: Base, base_folder: Path, tmp_path: Path) -> None:
    tuned = exported(tmp_path, base)
    weights = tuned / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(AdapterInvalid, match="another SHA-256 than its manifest says"):
        run(tuned, base_folder, tmp_path / "merged")
    weights.write_bytes(whole)
    (tuned / "manifest.json").unlink()
    with pytest.raises(AdapterInvalid, match=r"manifest\.json cannot be read: No such file"):
        run(tuned, base_folder, tmp_path / "merged")


def test_a_folder_with_something_in_it_is_left_alone(base: Base, base_folder: Path, tmp_path: Path) -> None:
    tuned = exported(tmp_path, base)
    with pytest.raises(ConfigurationError, match="is not an empty folder"):
        run(tuned, base_folder, tuned)
    assert len(left_in(tuned)) == 3


def test_another_chat_template_is_told(base: Base, base_folder: Path, tmp_path: Path) -> None:
    tuned, other = exported(tmp_path, base), tmp_path / "other"
    shutil.copytree(base_folder, other)
    (other / "chat_template.jinja").write_text("{{ messages }}")
    found = run(tuned, other, tmp_path / "merged")
    assert not found.same_template and "note: the base's chat template is not the one" in "\n".join(found.lines())


def test_a_whole_model_gets_its_bases_tokenizer(base: Base, base_folder: Path, tmp_path: Path) -> None:
    model, _ = answers(base_folder)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.01)
    model.save_pretrained(tmp_path / "full")
    adapters.write_config(base_folder, tmp_path / "full", "float32")
    store = LocalStore(tmp_path / "store")
    put_tree(store, ADAPTER_ID, tmp_path / "full", kind="full", **identity(base), recipe={"type": "full"})
    manifest = fetch_tree(store, ADAPTER_ID, tmp_path / "tuned")
    found = run(tmp_path / "tuned", base_folder, tmp_path / "merged")
    assert found.measures is None and "a whole model in float32" in "\n".join(found.lines())
    for name in manifest.files:
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "full" / name).read_bytes()
    assert torch.equal(answers(tmp_path / "merged")[1], model(input_ids=torch.arange(5, 60)[None]).logits)
    again = load_base(str(tmp_path / "merged"), name="again", device="cpu", threads=1)
    assert again.template_sha256 == base.template_sha256
    assert gap(log_probs(again.model, again), log_probs(base.model, base)).mean > 0.01
    with pytest.raises(ConfigurationError, match="not the base model"):
        run(tmp_path / "tuned", TINY, tmp_path / "wrong")


def test_a_base_of_packed_weights_is_refused(base: Base, base_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    packed = tmp_path / "packed"
    shutil.copytree(base_folder, packed)
    save_file({"model.layers.0.q_proj.weight": torch.zeros(8, 8, dtype=torch.uint8)}, packed / "model.safetensors")
    tuned = exported(tmp_path, base)
    manifest = json.loads((tuned / "manifest.json").read_text()) | {"base_sha256": base_fingerprint(packed)}
    (tuned / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigurationError, match="stored as U8; safetensors of F32, F16, BF16 can be merged with"):
        run(tuned, packed, tmp_path / "merged")


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    assert "python -m trainer merge --adapter tuned --out merged" in capsys.readouterr().out
