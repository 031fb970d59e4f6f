"""Folders on disk: the PEFT adapter that others load, and the state from which a run goes on as if never stopped.

Safetensors and JSON only, nothing that can carry code. Knows nothing about stores or jobs.
"""

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from trainer.engine import Engine
from trainer.recipe import Recipe
from trainer.weights import Weights

STATE_TENSORS = "state.safetensors"
STATE = "state.json"
"""Written last: a state without it does not exist."""


BEST = "best"


@dataclass(slots=True)
class Done:
    """What a run has behind it."""

    history: list[dict[str, Any]] = field(default_factory=list)  # the metrics of each step
    tokens: int = 0
    seconds: float = 0.0  # of training, also before a resume
    best: torch.Tensor | None = None  # all weights as they were at the best validation, where they are kept


def save_adapter(folder: Path, engine: Engine, slot: Any, recipe: Recipe) -> list[str]:
    """Write a standard PEFT directory, and beside it `recipe.json` (asked and resolved values, with their sources).

    Returns the names of the layers that carry an adapter.
    """
    targets = engine.save(folder, slot, recipe, slot.weights.tensors())
    (folder.parent / "recipe.json").write_text(json.dumps(recipe.to_json(), indent=2, sort_keys=True), encoding="utf-8")
    return targets


def save_state(folder: Path, weights: Weights, recipe: Recipe, done: Done) -> None:
    """Write what `load_state` needs: float32 weights, optimizer moments, and what the run has behind it.

    Nothing else decides how a run goes on: the order of its data is a function of the seed and the step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights.state() | ({} if done.best is None else {BEST: done.best}), folder / STATE_TENSORS)
    state = {
        "step": len(done.history),
        "recipe": recipe.to_json(),
        "layout": {name: list(shape) for name, shape in weights.shapes.items()},
        "history": done.history,
        "tokens": done.tokens,
        "seconds": done.seconds,
    }
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def asked_before(folder: Path) -> dict[str, Any]:
    """What was asked for when the state's run began."""
    asked: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))["recipe"]["asked"]
    return asked


def load_state(folder: Path, weights: Weights, recipe: Recipe) -> Done:
    """Put a saved state back and return what the run has behind it.

    A state of another recipe, or laid out in another way, is not used: the run starts again with nothing behind it.
    """
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    before = {name: value for name, value in state["recipe"].items() if name not in ("asked", "sources")}
    usual = {f.name: None if f.default is MISSING else f.default for f in fields(recipe)}
    before = {name: before.get(name, usual[name]) for name in recipe.resolved()}  # options of a later version are off
    layout = {name: list(shape) for name, shape in weights.shapes.items()}
    # The order of the names is part of the layout, and JSON keeps it.
    if before != recipe.resolved() or list((state.get("layout") or {}).items()) != list(layout.items()):
        return Done()
    tensors = load_file(folder / STATE_TENSORS)
    best = tensors.pop(BEST, None)
    weights.load(tensors, len(state["history"]))
    return Done(state["history"], state.get("tokens", 0), state.get("seconds", 0.0), best)
