"""Folders on disk: the PEFT adapter that others load, and the state from which a run goes on as if never stopped.

Safetensors and JSON only, nothing that can carry code. Knows nothing about stores or jobs.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from trainer.engine import Engine
from trainer.recipe import Recipe
from trainer.weights import Weights

STATE_TENSORS = "state.safetensors"
STATE = "state.json"
"""Written last: a state without it does not exist."""


def save_adapter(folder: Path, engine: Engine, slot: Any, recipe: Recipe) -> list[str]:
    """Write a standard PEFT directory, and beside it `recipe.json` (asked and resolved values, with their sources).

    Returns the names of the layers that carry an adapter.
    """
    targets = engine.save(folder, slot, recipe, slot.weights.tensors())
    (folder.parent / "recipe.json").write_text(json.dumps(recipe.to_json(), indent=2, sort_keys=True), encoding="utf-8")
    return targets


def save_state(folder: Path, weights: Weights, recipe: Recipe, history: list[dict[str, Any]]) -> None:
    """Write what `load_state` needs: float32 weights, optimizer moments, and the metrics of every step so far.

    Nothing else decides how a run goes on: the order of its data is a function of the seed and the step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights.state(), folder / STATE_TENSORS)
    layout = {name: list(shape) for name, shape in weights.shapes.items()}
    state = {"step": len(history), "recipe": recipe.to_json(), "layout": layout, "history": history}
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def asked_before(folder: Path) -> dict[str, Any]:
    """What was asked for when the state's run began."""
    asked: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))["recipe"]["asked"]
    return asked


def load_state(folder: Path, weights: Weights, recipe: Recipe) -> list[dict[str, Any]]:
    """Put a saved state back and return the metrics of the steps it has behind it (as many as there were steps).

    A state of another recipe, or laid out in another way, is not used: the run starts again and the answer is empty.
    """
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    before = {name: value for name, value in state["recipe"].items() if name not in ("asked", "sources")}
    before = dict.fromkeys(recipe.resolved()) | before  # options that a later version brought are off when absent
    layout = {name: list(shape) for name, shape in weights.shapes.items()}
    # The order of the names is part of the layout, and JSON keeps it.
    if before != recipe.resolved() or list((state.get("layout") or {}).items()) != list(layout.items()):
        return []
    history: list[dict[str, Any]] = state["history"]
    weights.load(load_file(folder / STATE_TENSORS), len(history))
    return history
