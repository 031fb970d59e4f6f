"""Norms as one operation: the same numbers, for the families' own norms, and for no other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RMSNorm

from trainer.base import load_base
from trainer.engine import PackedEngine
from trainer.norms import Norms

FAMILIES = [
    Gemma2RMSNorm,
    Gemma3RMSNorm,
    LlamaRMSNorm,
    MistralRMSNorm,
    Phi3RMSNorm,
    Qwen2RMSNorm,
    Qwen3RMSNorm,
    SmolLM3RMSNorm,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_norms_of_every_family_are_recognised_and_give_the_same(kind: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = kind(64).to(dtype)
    with torch.no_grad():
        norm.weight.add_(0.3 * torch.randn(64))
    norm.requires_grad_(False)
    model = torch.nn.Sequential(norm)
    x = (3 * torch.randn(5, 7, 64, dtype=dtype)).requires_grad_(True)
    slow = model(x)
    (slow_gradient,) = torch.autograd.grad(slow.float().pow(2).sum(), x)
    norms = Norms(model)
    assert len(norms) == 1
    norms.install()
    fast = model(x)
    (fast_gradient,) = torch.autograd.grad(fast.float().pow(2).sum(), x)
    norms.remove()
    assert "forward" not in vars(norm)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    torch.testing.assert_close(fast, slow, **close)
    torch.testing.assert_close(fast_gradient, slow_gradient, **close)
    assert torch.equal(model(x), slow)


class OddRMSNorm(torch.nn.Module):
    """A norm of the same name and attributes that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64))
        self.variance_epsilon = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x / x.abs().mean(-1, keepdim=True)


def test_a_norm_that_computes_something_else_is_left_alone() -> None:
    assert len(Norms(torch.nn.Sequential(OddRMSNorm(), torch.nn.LayerNorm(64)))) == 0


def test_the_engine_leaves_the_model_as_it_was(base_folder: Path) -> None:
    base = load_base(str(base_folder), name="tiny-random", device="cpu")  # nobody else's engine is in this one
    norms = [module for module in base.model.modules() if type(module).__name__.endswith("RMSNorm")]
    with PackedEngine(base):
        assert norms
        assert all("forward" in vars(module) for module in norms)
    assert not any("forward" in vars(module) for module in norms)
