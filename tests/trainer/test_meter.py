"""What training a token takes, and what devices can do."""

import pytest
import torch

from trainer.base import Base, load_base
from trainer.meter import flops_per_token, memory_bytes, peak_flops, peak_of


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Quadro P400", None),
    ],
)
def test_devices_are_known_by_their_names(name: str, flops: float | None) -> None:
    assert peak_of(name) == flops


def test_a_token_costs_two_operations_for_each_weight_it_meets(base: Base) -> None:
    config = base.model.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    linear = layers * (width * (2 * heads[0] + 2 * heads[1]) + 3 * width * inner) + config.vocab_size * width
    assert flops_per_token(base, "lora") == pytest.approx(4 * linear, rel=0.02)  # norms are the rest
    assert flops_per_token(base, "full") == pytest.approx(6 * linear, rel=0.02)


def test_four_bits_change_nothing_in_what_is_computed() -> None:
    bases = [load_base("examples/base/rootstock-tiny", name="t", device="cpu", quantised=q) for q in (False, True)]
    plain, packed = (flops_per_token(base, "qlora") for base in bases)
    assert packed == pytest.approx(plain, rel=0.01)


def test_a_cpu_has_no_known_peak_and_some_memory() -> None:
    assert peak_flops(torch.device("cpu")) is None
    assert memory_bytes(torch.device("cpu")) > 50_000_000
