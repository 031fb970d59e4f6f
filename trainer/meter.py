"""How hard a device works: operations that training a token takes, and the most that the device could do.

Utilisation counts what the model needs, not what was computed again (Chowdhery et al. 2022, PaLM, appendix B). Knows
nothing about jobs.
"""

from pathlib import Path

import torch

from trainer.base import Base

PEAK_FLOPS = {
    "A100": 312e12,
    "A10": 125e12,
    "A40": 149.7e12,
    "B200": 2250e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "H20": 148e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 5090": 209e12,
}
"""Name, as CUDA tells it -> floating-point operations a second, dense bfloat16, as the makers state them."""


def peak_flops(device: torch.device) -> float | None:
    """The most that the device can do, `None` where it is not known (processors, other accelerators)."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The entry of `PEAK_FLOPS` for a device's name; the longest that fits counts."""
    words = name.replace("-", " ").split()
    fits = [known for known in PEAK_FLOPS if set(known.split()) <= set(words)]
    return PEAK_FLOPS[max(fits, key=len)] if fits else None


def flops_per_token(base: Base, kind: str) -> float:
    """Operations of one token's forward and backward pass, attention left out.

    Two for each weight forward and two for the gradient of what goes in; the gradient of the weights themselves takes
    two more where they are trained (Kaplan et al. 2020). Embeddings are looked up and cost nothing, adapters little.
    """
    shown: dict[int, int] = {p.data_ptr(): p.numel() for p in base.model.parameters()}
    embedded = base.model.get_input_embeddings().weight
    head = base.model.get_output_embeddings()
    tied = head is not None and head.weight.data_ptr() == embedded.data_ptr()
    weights: int = sum(shown.values()) - (0 if tied else int(embedded.numel()))
    if base.quantised:  # two weights in a byte
        packed = (p for p in base.model.parameters() if p.dtype is torch.uint8)
        weights += sum(int(p.numel()) for p in packed)
    return (6.0 if kind == "full" else 4.0) * weights


def memory_bytes(device: torch.device) -> int:
    """The most memory that training has taken: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return 0
