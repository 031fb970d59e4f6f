"""Adapters as a trainer stores them, with random weights large enough that each one answers differently."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rootstock.adapters import put_tree
from rootstock.storage import LocalStore
from serving.base import ServedBase

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def put_random(
    store: LocalStore, base: ServedBase, adapter_id: str, scratch: Path, *, seed: int, rank: int = 8, scale: float = 0.2
) -> None:
    """Store an adapter that PEFT itself wrote; `scale` NaN makes one that must not be served."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=1.0)
            weights.data *= scale
    tuned.peft_config["default"].base_model_name_or_path = base.name
    tuned.save_pretrained(scratch, save_embedding_layers=False)  # the check for resized ones asks the hub
    put_tree(
        store,
        adapter_id,
        scratch,
        base=base.name,
        base_sha256=base.sha256,
        template_sha256=base.template_sha256,
        rank=rank,
        alpha=2.0 * rank,
        target_modules=TARGETS,
        recipe={"seed": seed},
    )
