"""Full fine-tuning: what it learns, that gradients are the model's own, and that the base is as before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rootstock.errors import AdapterInvalid
from tests.trainer.looping import Follower, data_for, recipe_for
from trainer.base import Base, load_base
from trainer.data import Row, collate
from trainer.full import FullEngine
from trainer.loop import Verdict
from trainer.loop import train as train_with


def snapshot(base: Base) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in base.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_learns_and_leaves_the_base_as_it_was(base: Base, tmp_path: Path) -> None:
    before = snapshot(base)
    recipe = recipe_for(base, 10, "supervised", n_epochs=12, batch_size=4, type="full", learning_rate_multiplier=5)
    with FullEngine(base) as engine:
        result = train_with(
            recipe, engine, data_for("supervised", 10, base), data_for("supervised", 3, base), tmp_path, Follower()
        )
    first, last = result.history[0]["train_loss"], result.history[-1]["train_loss"]
    assert first > 7 and last < 2
    assert same(before, snapshot(base))
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())
    assert result.final is not None and result.final.target_modules == []
    tuned = AutoModelForCausalLM.from_pretrained(result.final.adapter)
    found = dict(tuned.state_dict().items())
    assert found.keys() == before.keys()
    assert all(not torch.equal(found[name], before[name]) for name in found if "layernorm" not in name.lower())
    # What was saved is what was trained: its loss is that of the last steps.
    row = data_for("supervised", 10, base).rows[0]
    ids, learn = collate([row], torch.device("cpu"))
    logits = tuned(input_ids=ids).logits[0, :-1][learn[0, 1:]].float()
    assert torch.nn.functional.cross_entropy(logits, ids[0, 1:][learn[0, 1:]]) < 2


def test_its_gradient_is_that_of_the_model(base: Base) -> None:
    row = Row(1, (5, 6, 7, 8, 9), (False, False, True, True, True))
    with FullEngine(base) as engine:
        slot = engine.open(recipe_for(base, 1, type="full"))
        for _ in range(2):  # two passes of a step add up
            with engine.passing([(slot, [row])]) as (scores,):
                (-scores.log_probs.sum()).backward()
        ours = {name: view.clone() for name, view in slot.weights.views(slot.weights.gradient).items()}
        engine.close(slot)
    base.model.requires_grad_(True)
    try:
        logits = base.model(input_ids=torch.tensor([row.ids])).logits[0, 1:-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(row.ids[2:]), reduction="sum")
        (2 * loss).backward()
        for name, parameter in base.model.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-5)
    finally:
        base.model.requires_grad_(False)
        base.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_a_run_handed_back_goes_on_as_if_never_stopped(base: Base, tmp_path: Path, method: str) -> None:
    recipe = recipe_for(base, 10, method, n_epochs=2, batch_size=4, type="full")
    runs: list[tuple[Any, Follower]] = []
    for number, (at, resume) in enumerate([({}, None), ({2: Verdict.HAND_BACK}, None), ({}, "left")]):
        follower = Follower(at)
        start = runs[1][1].left[0][0] if resume else None
        with FullEngine(base) as engine:
            data = data_for(method, 10, base)
            result = train_with(recipe, engine, data, None, tmp_path / str(number), follower, resume=start)
        runs.append((result, follower))
    whole, rest = runs[0][0].history, runs[2][0].history
    assert [m["train_loss"] for m in rest] == pytest.approx([m["train_loss"] for m in whole], abs=1e-6)


def test_it_cannot_go_on_from_an_adapter(base: Base, tmp_path: Path) -> None:
    with FullEngine(base) as engine, pytest.raises(AdapterInvalid, match="full"):
        engine.open(recipe_for(base, 1, type="full"), tmp_path)


def test_in_bfloat16_small_gradients_are_not_lost(tmp_path: Path) -> None:
    base = load_base("examples/base/rootstock-tiny", name="tiny", device="cpu", dtype="bfloat16")
    row = Row(1, (5, 6, 7, 8, 9), (False, False, True, True, True))
    with FullEngine(base) as engine:
        slot = engine.open(recipe_for(base, 1, type="full"))
        with engine.passing([(slot, [row])]) as (scores,):
            scores.log_probs.sum().backward()
        once = slot.weights.gradient.clone()
        for _ in range(300):
            with engine.passing([(slot, [row])]) as (scores,):
                scores.log_probs.sum().backward()
        assert slot.weights.gradient.dtype is torch.float32
        torch.testing.assert_close(slot.weights.gradient, 301 * once, rtol=1e-3, atol=1e-3)
        engine.close(slot)
