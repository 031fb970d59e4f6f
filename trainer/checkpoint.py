"""Folders on disk: the PEFT adapter that others load, and the state from which a run goes on as if never stopped.

Safetensors and JSON only, nothing that can carry code. Knows nothing about stores or jobs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trainer.lora import WEIGHTS, Adapter
from trainer.recipe import Recipe

STATE_TENSORS = "state.safetensors"
STATE = "state.json"
"""Written last: a state without it does not exist."""


def save_adapter(folder: Path, adapter: Adapter, recipe: Recipe) -> None:
    """Write a standard PEFT directory, and beside it `recipe.json` (asked and resolved values, with their sources)."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter.config.save_pretrained(str(folder))
    save_file(adapter.tensors(), folder / WEIGHTS, metadata={"format": "pt"})
    (folder.parent / "recipe.json").write_text(json.dumps(recipe.to_json(), indent=2, sort_keys=True), encoding="utf-8")


def save_state(
    folder: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, recipe: Recipe, history: list[dict[str, Any]]
) -> None:
    """Write what `load_state` needs: float32 weights, optimizer moments, and the metrics of every step so far."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, parameter in adapter.parameters.items():
        tensors[f"weight/{name}"] = parameter.detach().cpu().contiguous()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment].cpu().contiguous()
    save_file(tensors, folder / STATE_TENSORS)
    state = {"step": len(history), "recipe": recipe.to_json(), "history": history}
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def asked_before(folder: Path) -> dict[str, Any]:
    """What was asked for when the state's run began."""
    asked: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))["recipe"]["asked"]
    return asked


def load_state(
    folder: Path, adapter: Adapter, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> list[dict[str, Any]]:
    """Put a saved state back and return the metrics of the steps it has behind it (as many as there were steps).

    A state of another recipe is not used: the run starts again and the answer is empty.
    """
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    before = {name: value for name, value in state["recipe"].items() if name not in ("asked", "sources")}
    before = dict.fromkeys(recipe.resolved()) | before  # options that a later version brought are off when absent
    if before != recipe.resolved():
        return []
    tensors = load_file(folder / STATE_TENSORS)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["step"])),
                "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
            }
    history: list[dict[str, Any]] = state["history"]
    return history
