"""Which engine trains a base model: the fast one where it is listed and proves itself, PEFT's layers for all others.

Listed is not enough: before the first job, the fast engine must agree with PEFT on this very model, in
log-probabilities and in gradients. Knows nothing about jobs.
"""

import contextlib
import logging
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.base import Base
from trainer.data import Row
from trainer.engine import PackedEngine
from trainer.plain import PlainEngine
from trainer.recipe import Facts, resolve

log = logging.getLogger(__name__)

FAMILIES = frozenset(
    {"qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3_text", "phi3", "smollm3"}  # phi3 is Phi-4's, too
)
"""Model types of transformers that the fast engine may train."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""By how much the two may differ, relative to the norm; bfloat16 rounds at 4e-3 in each layer."""


@contextlib.contextmanager
def engine_for(base: Base) -> Iterator[PackedEngine | PlainEngine]:
    """The engine for this base, ready for jobs; the base is as before when the block is left."""
    if reason := refusal(base):
        log.warning("%s is trained by PEFT's own layers, one job at a time: %s", base.name, reason)
        with PlainEngine(base) as plain:
            yield plain
        return
    with PackedEngine(base) as engine:
        yield engine


def refusal(base: Base) -> str | None:
    """Why the fast engine must not train this base, or `None`."""
    if base.family not in FAMILIES:
        return f"the architecture {base.family} is not among {', '.join(sorted(FAMILIES))}"
    try:
        difference = disagreement(base)
    except Exception as error:  # whatever fails here would fail in a job
        log.info("the fast engine cannot compute this model", exc_info=True)
        return f"the fast engine cannot compute it ({error})"
    if not difference <= TOLERANCE[base.activations]:
        return f"the fast engine differs from PEFT by {difference:.1e}"
    log.info("the fast engine agrees with PEFT to %.1e", difference)
    return None


def disagreement(base: Base) -> float:
    """The largest relative difference between the two engines on one adapter and a few rows that share a beginning."""
    drawn = random.Random(7)
    ids = [drawn.randrange(base.vocabulary) for _ in range(24)]
    rows: list[Row] = []
    for length in (9, 24, 3):
        text = ids + [drawn.randrange(base.vocabulary) for _ in range(length)]
        rows.append(Row(len(rows), tuple(text), tuple(i > 20 for i in range(len(text)))))
    facts = Facts(len(rows), base.hidden_size, base.context_tokens, base.dtype, 8)
    recipe = resolve({"rank": 8}, facts, seed=7)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder)
        with PackedEngine(base) as engine:
            slot = engine.open(recipe)
            generator = torch.Generator().manual_seed(7)
            noise = (
                torch.randn(slot.weights.size, generator=generator) * 0.02
            )  # B too: a B of zeros would hide mistakes
            with torch.no_grad():
                slot.weights.master.add_(noise.to(base.device))
            slot.refresh()
            engine.save(start, slot, recipe, slot.weights.tensors())
            ours = _measure(engine, slot, rows)
            engine.close(slot)
        with PlainEngine(base) as plain:
            peft = plain.open(recipe, start)
            theirs = _measure(plain, peft, rows)
            plain.close(peft)
    return max(_relative(ours[name], theirs[name]) for name in theirs)


def _measure(engine: Any, slot: Any, rows: list[Row]) -> dict[str, torch.Tensor]:
    with engine.passing([(slot, rows)]) as (scores,):
        (-scores.log_probs.sum() / len(scores.correct)).backward()
        found = {"log-probabilities": scores.log_probs.detach().clone()}
    slot.finish_gradient()
    # All of a kind of layer together: single matrices may have next to no gradient, and rounding then looks large.
    gradients: dict[str, list[torch.Tensor]] = {}
    for name, gradient in sorted(slot.weights.views(slot.weights.gradient).items()):
        gradients.setdefault(".".join(name.split(".")[-3:]), []).append(gradient.detach().flatten())
    return found | {name: torch.cat(parts).clone() for name, parts in gradients.items()}


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))
