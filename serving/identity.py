"""The identity adapter: a LoRA adapter that changes nothing, under which vLLM's CPU back-end serves the base model.

There, base-model requests that share a batch with adapter requests get the last adapter's weights (vllm #48421), but
adapters never get each other's. Knows nothing about vLLM's arguments or real adapters.
"""

import json
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from serving.base import ServedBase

log = logging.getLogger(__name__)

IDENTITY_ID = "identity-lora"
"""The name vLLM lists it under; the gateway sends base-model requests there when it is listed."""

SUPPORTED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Model types whose first layer is known to hold `self_attn.q_proj`."""


def write_identity_adapter(base: ServedBase, folder: Path) -> Path | None:
    """The folder of an identity adapter for `base` below `folder`, written if need be; `None` if none is known.

    One pair of zero matrices is enough: vLLM zeroes its slot in every layer that an adapter does not mention.
    """
    config = base.config
    if config.get("model_type") not in SUPPORTED:
        log.warning(
            "no identity adapter is known for model type %r: on a CPU, base-model requests that run beside adapter "
            "requests will get an adapter's answers",
            config.get("model_type"),
        )
        return None
    path = folder / f"{IDENTITY_ID}-{base.sha256[:16]}"
    if path.exists():
        return path
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    scratch = folder / f"{path.name}-{secrets.token_hex(8)}"
    scratch.mkdir(parents=True)
    try:
        save_file(
            {
                f"{layer}.lora_A.weight": np.zeros((1, config["hidden_size"]), dtype=np.float32),
                f"{layer}.lora_B.weight": np.zeros((config["num_attention_heads"] * head, 1), dtype=np.float32),
            },
            scratch / "adapter_model.safetensors",
        )
        facts: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.name,
            "bias": "none",
        }
        facts |= {"r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
        (scratch / "adapter_config.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
        os.rename(scratch, path)
    except OSError:
        # Another process wrote the same one first.
        if not path.exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path
