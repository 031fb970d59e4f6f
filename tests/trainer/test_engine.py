"""The fast engine against PEFT's own layers on every listed architecture, and jobs together against each alone."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from tests.trainer.conftest import build_tokenizer
from tests.trainer.looping import Follower, examples, recipe_for
from trainer.admission import FAMILIES, disagreement, engine_for, refusal
from trainer.base import Base, load_base
from trainer.data import Dataset, Row
from trainer.driver import Member, advance, choose
from trainer.engine import PackedEngine
from trainer.loop import run
from trainer.lora import Slot
from trainer.method import Pass
from trainer.plain import PlainEngine


def build(folder: Path, family: str, **options: Any) -> Base:
    """A tiny random model of a family, with windows and caps that matter at a few dozen tokens."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config = AutoConfig.for_model(family, **(common | options))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return load_base(str(folder), name=family, device="cpu")


WINDOWS = {"mistral": {"sliding_window": 12}, "phi3": {"sliding_window": 12}, "gemma2": {"sliding_window": 12}}
WINDOWS["gemma3_text"] = {"sliding_window": 12}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_it_agrees_with_peft_on_every_listed_architecture(tmp_path: Path, family: str) -> None:
    base = build(tmp_path, family, **WINDOWS.get(family, {}))
    assert base.family == family
    assert disagreement(base) < 1e-4


def test_an_unlisted_architecture_trains_with_peft_s_layers(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "olmo2")
    assert "olmo2 is not among" in str(refusal(base))
    with engine_for(base) as engine:
        assert isinstance(engine, PlainEngine)
        follower = Follower()
        rows = _dataset(base)
        member = Member(
            run(recipe_for(base, 10, rank=4, n_epochs=1, batch_size=4), engine, rows, None, tmp_path, follower)
        )
        while not member.done:
            advance(engine, [member], 8192)
    assert [progress.step for progress in follower.steps] == [1, 2, 3]
    assert not any(p.requires_grad for p in base.model.parameters())


def test_an_engine_that_differs_from_peft_is_refused(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(base) is None
    refresh = Slot.refresh

    def forgets_scale(slot: Slot) -> None:
        slot.scale = 1.0
        refresh(slot)

    monkeypatch.setattr(Slot, "refresh", forgets_scale)
    assert "differs from PEFT" in str(refusal(base))


def _dataset(base: Base) -> Any:
    rows = [Row(n, tuple(range(5, 30 + n)), tuple(i > 10 for i in range(25 + n))) for n in range(10)]
    return Dataset(tuple(rows), 10)


def test_a_capped_head_is_computed_right(base: Base, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        final_logit_softcapping=2.0,
        initializer_range=0.3,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    capped = load_base(str(tmp_path), name="capped", device="cpu")
    row = Row(1, tuple(range(5, 40)), tuple(i > 8 for i in range(35)))
    with torch.no_grad(), PackedEngine(capped) as engine:
        slot = engine.open(recipe_for(capped, 1, rank=4))
        with engine.passing([(slot, [row])]) as (scores,):
            found = scores.log_probs
        logits = capped.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    expected = [float(logits[i - 1, row.ids[i]]) for i in range(1, 35) if row.learn[i]]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def _train(base: Base, tmp_path: Path, seeds: dict[str, tuple[int, int]], **options: Any) -> dict[str, torch.Tensor]:
    """The final weights of one run per name with its (rank, learning-rate multiplier), all at once."""
    found = {}
    with PackedEngine(base, **options) as engine:
        members = []
        for number, (name, (rank, epochs)) in enumerate(seeds.items()):
            recipe = recipe_for(base, 10, rank=rank, n_epochs=epochs, batch_size=4)
            follower = Follower()
            rows = examples(10 + number, base)
            members.append((name, follower, Member(run(recipe, engine, rows, None, tmp_path / name, follower))))
        while waiting := [member for _, _, member in members if not member.done]:
            advance(engine, waiting, 8192)
        for name, follower, _ in members:
            tensors = load_file(follower.saved[-1].adapter / "adapter_model.safetensors")
            found[name] = torch.cat([tensors[key].flatten() for key in sorted(tensors)])
    return found


JOBS = {"a": (4, 3), "b": (8, 2), "c": (8, 1)}


@pytest.mark.parametrize("options", [{}, {"products": "grouped"}], ids=["loop", "grouped"])
def test_jobs_trained_together_get_the_adapters_that_each_gets_alone(
    base: Base, tmp_path: Path, options: dict[str, Any]
) -> None:
    together = _train(base, tmp_path / "together", JOBS, **options)
    for number, (name, shape) in enumerate(JOBS.items()):
        before = {f"x{i}": (1, 1) for i in range(number)}  # so that the number of rows is the same
        alone = _train(base, tmp_path / f"alone-{name}", before | {name: shape})[name]
        assert float((together[name] - alone).norm() / alone.norm()) < 1e-5
    other = together["c"]
    assert float((together["b"] - other).norm() / other.norm()) > 1e-2, "else equality shows nothing"


def test_a_neighbour_without_numbers_changes_nothing(base: Base) -> None:
    rows = list(examples(4, base).rows)
    with PackedEngine(base) as engine:
        good, bad = engine.open(recipe_for(base, 4, rank=8)), engine.open(recipe_for(base, 4, rank=8))
        with engine.passing([(good, rows)]) as (scores,):
            (-scores.log_probs.sum()).backward()
        expected = good.weights.gradient.clone()
        good.weights.gradient.zero_()
        with torch.no_grad():
            bad.weights.master.fill_(math.nan)
        bad.refresh()
        with engine.passing([(bad, rows), (good, rows)]) as (broken, fine):
            (-(broken.log_probs.sum() + fine.log_probs.sum())).backward()
    assert torch.equal(fine.log_probs, scores.log_probs)
    assert torch.allclose(good.weights.gradient, expected, rtol=1e-5, atol=1e-6)
    assert bool(bad.weights.gradient.isnan().any())


def test_what_one_run_breaks_reaches_no_other(base: Base, tmp_path: Path) -> None:
    with PackedEngine(base) as engine:
        recipe = recipe_for(base, 10, rank=4, n_epochs=1, batch_size=4)
        followers = [Follower(), Follower()]
        members = [
            Member(run(recipe, engine, examples(10, base), None, tmp_path / str(n), follower))
            for n, follower in enumerate(followers)
        ]
        assert members[0].wants is not None

        def breaks(_items: Any, _scores: Any) -> Any:
            raise ValueError("broken")

        wanted = members[0].wants
        members[0].wants = Pass(wanted.slot, wanted.items, breaks, wanted.size)
        with pytest.raises(ValueError, match="broken"):
            advance(engine, members, 8192)
        assert members[0].done
        while not members[1].done:
            advance(engine, [members[1]], 8192)
    assert [progress.step for progress in followers[1].steps] == [1, 2, 3]
    assert followers[0].steps == []


def test_a_pass_without_memory_is_cut_until_it_fits(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = Follower(), Follower()
    for follower, most in ((whole, 100), (cut, 1)):
        with PackedEngine(base) as engine:
            passing = engine.passing

            def limited(work: Any, passing: Any = passing, most: int = most) -> Any:
                if sum(len(rows) for _, rows in work) > most:
                    raise torch.OutOfMemoryError("too many rows")
                return passing(work)

            monkeypatch.setattr(engine, "passing", limited)
            recipe = recipe_for(base, 10, rank=4, n_epochs=2, batch_size=4)
            member = Member(run(recipe, engine, examples(10, base), None, tmp_path / str(most), follower))
            while not member.done:
                advance(engine, [member], 8192)
    expected = [progress.metrics["train_loss"] for progress in whole.steps]
    assert [progress.metrics["train_loss"] for progress in cut.steps] == pytest.approx(expected, abs=1e-4)


def test_who_goes_together() -> None:
    train, look = Pass(None, (), lambda *_: None, 1), Pass(None, (), lambda *_: None, None)  # type: ignore[arg-type, return-value]
    assert choose([(train, 900), (train, 50), (look, 10), (train, 60), (train, 40)], 1000) == [0, 1, 4]
    assert choose([(train, 5000), (train, 1)], 1000) == [0]
    assert choose([(look, 10), (train, 10), (look, 10)], 1000) == [0, 2]


def test_the_saved_adapter_is_what_peft_loads(base: Base, base_folder: Path, tmp_path: Path) -> None:
    row = examples(1, base).rows[0]
    recipe = recipe_for(base, 10, rank=4, alpha=12)
    with torch.no_grad(), PackedEngine(base) as engine:
        slot = engine.open(recipe)
        slot.weights.master.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
        slot.refresh()
        engine.save(tmp_path, slot, recipe, slot.weights.tensors())
        with engine.passing([(slot, [row])]) as (scores,):
            found = scores.log_probs
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), tmp_path)
    with torch.no_grad():
        logits = peft(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    expected = [float(logits[i - 1, row.ids[i]]) for i in range(1, len(row.ids)) if row.learn[i]]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


def test_a_bfloat16_base_trains_float32_adapters_to_about_the_same_loss(base: Base, base_folder: Path) -> None:
    half = load_base(str(base_folder), name="half", device="cpu", dtype="bfloat16")
    rows = list(examples(6, base).rows)
    losses = []
    for used in (base, half):
        with PackedEngine(used) as engine:
            slot = engine.open(recipe_for(used, 10, rank=4))
            with engine.passing([(slot, rows)]) as (scores,):
                (-scores.log_probs.sum()).backward()
            assert slot.weights.master.dtype is slot.weights.gradient.dtype is torch.float32
            assert float(slot.weights.norm()) > 0
        losses.append(float(scores.log_probs.detach().mean()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_the_initial_adapter_depends_on_the_seed_alone_and_leaves_the_random_state(base: Base) -> None:
    recipe, state = recipe_for(base, 10, rank=4), torch.random.get_rng_state()
    with PackedEngine(base) as engine:
        first = engine.open(recipe).weights.master.detach().clone()
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.rand(1)
        assert torch.equal(engine.open(recipe).weights.master, first)


def test_recomputed_activations_give_the_same_gradient(base: Base) -> None:
    rows = list(examples(4, base).rows)
    gradients = []
    for checkpointing in (False, True):
        with PackedEngine(base, checkpointing=checkpointing) as engine:
            slot = engine.open(recipe_for(base, 4, rank=8))
            with engine.passing([(slot, rows)]) as (scores,):
                (-scores.log_probs.sum()).backward()
            gradients.append(slot.weights.gradient.clone())
    assert float(gradients[0].norm()) > 0
    assert torch.allclose(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)
    assert not base.model.training
