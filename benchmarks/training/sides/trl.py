"""TRL's SFTTrainer: as shipped, in float32, and tuned. Runs in `.venv-bench`; knows nothing about the engine.

`python -m benchmarks.training.sides.trl --cold WORK OUT` is a user's script: start, train a tiny job, store it.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training import measure, work
from benchmarks.training.sides.hf import common, labelled
from benchmarks.training.sides.protocol import Handler, serve

TUNED = {"padding_free": True, "gradient_checkpointing": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "shipped": {},  # bf16 autocast and gradient checkpointing are its defaults
    "fp32": {"bf16": False},
    "tuned": {"bf16": False, **TUNED},
    "tuned_bf16": TUNED,
}
"""Name -> what is not default. On a CPU, padding-free attention takes a dense mask where a GPU has varlen kernels."""


def connect(folder: Path) -> dict[str, Handler]:
    """The handlers of this side."""
    import torch
    import trl.trainer.utils as trl_utils
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    usual = trl_utils._use_triton

    class Losses(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.seen.append(float(logs["loss"]))

    def train(
        rows: str, count: int, variant: str = "shipped", batch: int = work.BATCH, out: str | None = None
    ) -> dict[str, Any]:
        chosen = work.load_rows(folder / f"{rows}.jsonl", count)
        # On a GPU TRL scores labelled positions only, on a CPU all of them; tuned gets the better way on both.
        trl_utils._use_triton = (lambda _: True) if variant.startswith("tuned") else usual
        plain = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")
        losses = Losses()
        with tempfile.TemporaryDirectory() as scratch:
            settings = SFTConfig(
                output_dir=scratch,
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
                **common(batch),
                **VARIANTS[variant],
            )
            trainer = SFTTrainer(
                model=PeftModel.from_pretrained(plain, folder / "model-adapter-0", is_trainable=True),
                args=settings,
                train_dataset=Dataset.from_list(labelled(chosen)),
                callbacks=[losses],
            )
            clock = measure.Clock()
            trainer.train()
            took = clock.read()
            if out:
                trainer.model.save_pretrained(out)
        return took | {"losses": losses.seen, "tokens": work.real_tokens(chosen)}

    return {"train": train}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cold"]:
        import torch as _torch

        _torch.set_num_threads(1)
        connect(Path(sys.argv[2]))["train"](rows="chat", count=16, variant="tuned", out=sys.argv[3])
    else:
        serve(connect)
