"""Hugging Face Trainer with PEFT: padded batches, full logits. Also counts the operations of one PEFT step.

Runs in `.venv-bench`; knows nothing about the engine.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training import measure, work
from benchmarks.training.sides.protocol import Handler, serve


def connect(folder: Path) -> dict[str, Handler]:
    """The handlers of this side."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Losses(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                self.seen.append(float(logs["loss"]))

    def adapted(model: str) -> Any:
        plain = AutoModelForCausalLM.from_pretrained(folder / model, dtype=torch.float32, attn_implementation="sdpa")
        return PeftModel.from_pretrained(plain, folder / f"{model}-adapter-0", is_trainable=True)

    def train(rows: str, count: int, bf16: bool = False) -> dict[str, Any]:
        chosen = work.load_rows(folder / f"{rows}.jsonl", count)
        losses = Losses()
        with tempfile.TemporaryDirectory() as out:
            trainer = Trainer(
                model=adapted("model"),
                args=TrainingArguments(output_dir=out, bf16=bf16, **common(work.BATCH)),
                train_dataset=Dataset.from_list(labelled(chosen)),
                data_collator=padded,
                callbacks=[losses],
            )
            clock = measure.Clock()
            trainer.train()
            took = clock.read()
        return took | {"losses": losses.seen, "tokens": work.real_tokens(chosen)}

    def ops(batch: int) -> dict[str, Any]:
        rows = work.load_rows(folder / "chat.jsonl", 2 * batch)
        model = adapted("deep").train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=work.RATE, weight_decay=0.0, fused=True)
        counts = []
        for first in (0, batch):  # AdamW makes its state in the first step
            inputs = padded(labelled(rows[first : first + batch]))
            with measure.op_counter() as counter:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(**inputs).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            counts.append(counter.count)
        return {"operations": counts[-1], "jobs": 1}

    return {"train": train, "ops": ops}


def common(batch: int) -> dict[str, Any]:
    """The arguments on which Trainer and SFTTrainer must not differ from the engine."""
    return {
        "per_device_train_batch_size": batch,
        "num_train_epochs": 1,
        "learning_rate": work.RATE,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "seed": work.SEED,
    }


def labelled(rows: list[work.Sample]) -> list[dict[str, Any]]:
    """Rows with -100 where nothing is learned."""
    return [
        {"input_ids": list(r.ids), "labels": [i if on else -100 for i, on in zip(r.ids, r.learn, strict=True)]}
        for r in rows
    ]


def padded(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One batch, padded on the right to its longest row."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)

    def filled(name: str, value: int) -> Any:
        return torch.tensor([list(row[name]) + [value] * (width - len(row[name])) for row in rows])

    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": filled("input_ids", 0),
        "labels": filled("labels", -100),
        "attention_mask": torch.tensor(mask),
    }


if __name__ == "__main__":
    serve(connect)
