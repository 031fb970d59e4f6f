"""Adapters on a base in four bits: equal to PEFT's, small, and trained like any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from rootstock.errors import ConfigurationError
from tests.trainer.looping import Follower, data_for, recipe_for
from trainer.admission import disagreement, refusal
from trainer.base import Base, load_base
from trainer.data import Row
from trainer.engine import PackedEngine
from trainer.loop import train
from trainer.sites import linear_layers, sites_of

TINY = "examples/base/rootstock-tiny"


@pytest.fixture(scope="module")
def packed_base() -> Base:
    return load_base(TINY, name="tiny", device="cpu", dtype="float32", threads=1, quantised=True)


@pytest.fixture(scope="module")
def plain_base() -> Base:
    return load_base(TINY, name="tiny", device="cpu", dtype="float32", threads=1)


def test_all_linear_layers_but_the_head_take_four_bits(packed_base: Base, plain_base: Base) -> None:
    assert packed_base.quantised and not plain_base.quantised
    small, large = sites_of(packed_base), sites_of(plain_base)
    assert small.keys() == large.keys()
    assert linear_layers(packed_base.model) == linear_layers(plain_base.model)
    kept = sum(site.weight.numel() * site.weight.element_size() for site in small.values())
    for site in small.values():  # what belongs to the packed weights
        state: Any = site.weight.quant_state  # type: ignore[attr-defined]
        parts = [state.absmax, state.offset, state.state2.absmax, state.state2.code]
        kept += sum(part.numel() * part.element_size() for part in parts)
    bf16 = sum(2 * site.weight.numel() for site in large.values())
    assert kept < 0.35 * bf16
    for name, site in small.items():
        dense = site.dense()
        assert dense.dtype is torch.float32
        # NF4's error on normal weights is about 9 %.
        assert 0.01 < (dense - large[name].weight).norm() / large[name].weight.norm() < 0.15


def test_it_agrees_with_peft_on_the_same_base(packed_base: Base) -> None:
    assert disagreement(packed_base) < 1e-4
    assert refusal(packed_base) is None


def test_jobs_together_get_what_each_gets_alone(packed_base: Base) -> None:
    rows = [Row(1, tuple(range(5, 25)), (False,) * 8 + (True,) * 12), Row(1, tuple(range(40, 50)), (True,) * 10)]

    def gradients(*jobs: int) -> list[torch.Tensor]:
        with PackedEngine(packed_base) as engine:
            slots = [engine.open(recipe_for(packed_base, 1, rank=4 + 4 * job)) for job in jobs]
            with engine.passing([(slot, [rows[job]]) for slot, job in zip(slots, jobs, strict=True)]) as scores:
                sum(-score.log_probs.sum() for score in scores).backward()  # type: ignore[union-attr]
            found = []
            for slot in slots:
                slot.finish_gradient()
                found.append(slot.weights.gradient.clone())
            return found

    together = gradients(0, 1)
    for job in (0, 1):
        (alone,) = gradients(job)
        assert alone.norm() > 0
        torch.testing.assert_close(together[job], alone, rtol=1e-4, atol=1e-6)


def test_it_learns_and_the_adapter_loads_on_the_plain_base(packed_base: Base, plain_base: Base, tmp_path: Path) -> None:
    recipe = recipe_for(packed_base, 10, n_epochs=8, batch_size=4, type="qlora")
    with PackedEngine(packed_base) as engine:
        result = train(recipe, engine, data_for("supervised", 10, packed_base), None, tmp_path, Follower())
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    assert result.final is not None
    ids = torch.tensor([data_for("supervised", 1, plain_base).rows[0].ids])
    with torch.no_grad():
        before = plain_base.model(input_ids=ids).logits
        tuned = PeftModel.from_pretrained(plain_base.model, str(result.final.adapter))
        try:
            assert not torch.allclose(tuned(input_ids=ids).logits, before, atol=0.1)
        finally:
            tuned.unload()


def test_without_bitsandbytes_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="needs bitsandbytes"):
        load_base(TINY, name="tiny", device="cpu", quantised=True)
