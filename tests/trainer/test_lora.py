"""Our adapter layers against PEFT's own, and that nothing of them stays behind."""

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.trainer.test_loop import examples, recipe_for
from trainer import checkpoint, lora
from trainer.base import Base, load_base
from trainer.data import collate
from trainer.losses import sft_loss


def test_loss_and_gradients_are_those_of_peft_s_own_layers(base: Base, base_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(base, 10, rank=4, alpha=12)
    ids, learn = collate(examples(6, base).rows, base.device)
    with lora.attached(base, recipe) as adapter:
        with torch.no_grad():
            for parameter in adapter.parameters.values():
                parameter.normal_(std=0.2)  # a fresh B is zero, and would hide half of the gradients
        checkpoint.save_adapter(tmp_path / "adapter", adapter, recipe)
        ours = sft_loss(base, ids, learn).loss
        ours.backward()
        gradients = {name: parameter.grad for name, parameter in adapter.parameters.items()}
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_folder), tmp_path / "adapter", is_trainable=True
    )
    logits = peft(input_ids=ids).logits[:, :-1][learn[:, 1:]]
    theirs = torch.nn.functional.cross_entropy(logits, ids[:, 1:][learn[:, 1:]], reduction="sum")
    theirs.backward()
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    compared = 0
    for name, parameter in peft.named_parameters():
        if parameter.requires_grad:
            mine = gradients[name.replace(".default", "")]
            assert mine is not None
            assert parameter.grad is not None
            assert torch.allclose(mine, parameter.grad, rtol=1e-3, atol=1e-4 * float(parameter.grad.abs().max()))
            compared += 1
    assert compared == len(gradients) == 2 * 7 * 2


def test_a_bfloat16_base_trains_float32_adapters_to_about_the_same_loss(base: Base, base_folder: Path) -> None:
    half = load_base(str(base_folder), name="half", device="cpu", dtype="bfloat16")
    ids, learn = collate(examples(6, base).rows, base.device)
    losses = []
    for used in (base, half):
        with lora.attached(used, recipe_for(used, 10, rank=4)) as adapter:
            summed = sft_loss(used, ids, learn)
            summed.loss.backward()
            assert {p.dtype for p in adapter.parameters.values()} == {torch.float32}
            assert {p.grad.dtype for p in adapter.parameters.values() if p.grad is not None} == {torch.float32}
        losses.append(float(summed.loss.detach()) / summed.tokens)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_the_initial_adapter_depends_on_the_seed_alone_and_leaves_the_random_state(base: Base) -> None:
    recipe = recipe_for(base, 10, rank=4)
    state = torch.random.get_rng_state()
    with lora.attached(base, recipe) as adapter:
        first = copy.deepcopy(adapter.tensors())
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    with lora.attached(base, recipe) as adapter:
        assert all(torch.equal(first[name], tensor) for name, tensor in adapter.tensors().items())
