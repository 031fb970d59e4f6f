"""How many tokens one pass may have on this device, found by trying and not by a formula.

Two passes of different sizes tell what a pass needs per token; what is left of the memory tells the rest. Knows nothing
about jobs.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch

from trainer.data import Row
from trainer.recipe import Facts, resolve

log = logging.getLogger(__name__)

ON_A_CPU = 8192
"""Beyond this a CPU gains nothing, and memory is not what is short."""

LEAST, MOST = 1024, 65_536
PROBES = (512, 2048)
SPARE = 0.85
"""The share of the free memory that is used: the caching allocator needs room, and jobs have states."""

RANK = 16

Peak = Callable[[Callable[[], None]], int]
"""Runs something and tells the most bytes that were taken meanwhile."""


def token_budget(engine: Any, asked: int) -> int:
    """Tokens of one pass: as asked, or with 0 as many as fit.

    Where not even the longest example would fit, activations are computed again instead of kept
    (`engine.checkpointing`), if the engine can.
    """
    if asked:
        return asked
    if engine.device.type != "cuda":
        return ON_A_CPU
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(engine.device)
    return measured(engine, free + torch.cuda.memory_reserved(engine.device), _cuda_peak)


def measured(engine: Any, limit: int, peak: Peak) -> int:
    """The budget for `limit` bytes in all, by the peaks of two trial passes."""
    context = min(engine.base.context_tokens, MOST)
    found = _fits(engine, limit, peak)
    if found < context and hasattr(engine, "checkpointing"):
        engine.checkpointing = True
        found = _fits(engine, limit, peak)
    budget = max(LEAST, min(MOST, found))
    kept = "recomputed" if getattr(engine, "checkpointing", False) else "kept"
    log.info("a pass may have %d tokens (activations are %s)", budget, kept)
    if budget < context:
        log.warning("examples longer than %d tokens may not fit into this device's memory", budget)
    return budget


def _fits(engine: Any, limit: int, peak: Peak) -> int:
    base = engine.base
    recipe = resolve({"rank": RANK}, Facts(1, base.hidden_size, base.context_tokens, base.dtype, RANK), seed=0)
    slot = engine.open(recipe, None)
    try:
        taken = []
        for tokens in PROBES:
            rows = _rows(tokens, min(256, base.context_tokens))

            def step(rows: list[Row] = rows) -> None:
                with engine.passing([(slot, rows)]) as (scores,):
                    (-scores.log_probs.sum()).backward()

            try:
                taken.append(peak(step))
            except torch.OutOfMemoryError:
                log.warning("a trial pass of %d tokens does not fit", tokens)
                break
    finally:
        engine.close(slot)
    if len(taken) < len(PROBES):
        return PROBES[0] if taken else 0
    per_token = max(1.0, (taken[1] - taken[0]) / (PROBES[1] - PROBES[0]))
    return int((limit * SPARE - taken[0]) / per_token) + PROBES[0]


def _rows(tokens: int, length: int) -> list[Row]:
    """Rows with no common beginning, half of each to be learned."""
    learn = tuple(place >= length // 2 for place in range(length))
    return [
        Row(number, tuple(1 + (number * 31 + place) % 97 for place in range(length)), learn)
        for number in range(max(1, tokens // length))
    ]


def _cuda_peak(run: Callable[[], None]) -> int:
    run()  # kernels are chosen and workspaces taken the first time
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved()
