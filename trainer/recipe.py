"""What is trained and how, as one frozen value: every "auto" becomes a number here and nowhere else.

Each value keeps its source ("asked", or the rule that chose it); asked and resolved are both saved with the adapter.
Knows nothing about tensors, files or jobs.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rootstock.errors import JobFailure
from rootstock.records import TRAINABLE_METHODS

AUTO = "auto"

FULL_STRENGTH_WIDTH = 2048
BASE_LEARNING_RATE = 2e-4
MAX_LEARNING_RATE = 2e-3
MAX_BATCH_SIZE = 256
DPO_SHARE_OF_RATE = 1 / 20
USUAL_BETA = 0.1
MAX_BETA = 2.0

HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
OPTIONS = {
    "supervised": (*HYPERPARAMETERS, "rank", "alpha"),
    "dpo": (*HYPERPARAMETERS, "beta", "rank", "alpha"),
}
"""Method -> what may be asked for."""


@dataclass(frozen=True, slots=True)
class Start:
    """An adapter to go on from: its shape cannot be chosen any more."""

    adapter_id: str
    rank: int
    alpha: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules may look at: the data, the base model and the operator's limits."""

    examples: int
    hidden_size: int
    context_tokens: int
    dtype: str
    max_rank: int
    start: "Start | None" = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the result of a training run, given the base model and the rows.

    Equal recipes on equal data give equal adapters (bit for bit on one CPU).
    """

    method: str
    n_epochs: int
    batch_size: int
    learning_rate: float
    learning_rate_multiplier: float
    rank: int
    alpha: float
    seed: int
    max_tokens: int  # longer examples are cut at the end
    dtype: str  # of the base weights; the adapter trains in float32
    schedule: str = "linear"  # to zero over the run, after the warm-up
    warmup_fraction: float = 0.05
    clip: float = 1.0  # norm of the gradient
    weight_decay: float = 0.0
    target_modules: str = "all linear layers"
    start: str | None = None  # the adapter that the run begins with; None: a fresh one
    beta: float | None = None  # of DPO: how dear it is to leave the model that the run begins with
    asked: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The form saved as `recipe.json` with the adapter."""
        return dataclasses.asdict(self)

    def resolved(self) -> dict[str, Any]:
        """Only what decides the result, whoever chose it."""
        return {name: value for name, value in self.to_json().items() if name not in ("asked", "sources")}

    def hyperparameters(self) -> dict[str, Any]:
        """The resolved numbers that every job echoes."""
        return {name: getattr(self, name) for name in HYPERPARAMETERS}

    def method_hyperparameters(self) -> dict[str, Any]:
        """The resolved numbers that the job's method echoes."""
        return self.hyperparameters() | ({} if self.beta is None else {"beta": self.beta})

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """Rate of optimizer step `step` (1-based): a linear rise, then a linear fall that would reach zero at the end.

        Example: with 100 steps and 5 % warm-up the full rate is reached at step 5, step 100 has about 1 % of it.
        """
        warmup = max(1, round(self.warmup_fraction * total_steps))
        if step <= warmup:
            return self.learning_rate * step / warmup
        return self.learning_rate * (total_steps - step + 1) / (total_steps - warmup + 1)


def resolve(asked: Mapping[str, Any], facts: Facts, *, seed: int, method: str = "supervised") -> Recipe:
    """The recipe for what was asked: absent and "auto" values are chosen by rule, the others are taken.

    Example: `resolve({"n_epochs": 2, "batch_size": "auto"}, facts, seed=7)`.
    Raises `JobFailure` for a value that cannot be trained, naming what would be accepted.
    """
    if method not in TRAINABLE_METHODS:
        raise _refused(f"the method {method!r} is not offered yet; there is {', '.join(TRAINABLE_METHODS)}")
    unknown = sorted(set(asked) - set(OPTIONS[method]))
    if unknown:
        raise _refused(f"{unknown[0]} is not an option of this method; there are {', '.join(OPTIONS[method])}")
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    rules = _rules(facts)
    for name in OPTIONS[method]:
        value, rule = rules[name]
        given = asked.get(name, AUTO)
        chosen[name], sources[name] = (value, f"auto: {rule}") if given in (AUTO, None) else (given, "asked")
    epochs = _whole("n_epochs", chosen["n_epochs"], 1, 50)
    batch = min(_whole("batch_size", chosen["batch_size"], 1, MAX_BATCH_SIZE), max(1, facts.examples))
    rank = _whole("rank", chosen["rank"], 1, facts.max_rank)
    if facts.start is not None:
        if (rank, chosen["alpha"]) != (facts.start.rank, facts.start.alpha):
            raise _refused(f"the model to go on from has rank {facts.start.rank} and alpha {facts.start.alpha:g}")
    elif sources["alpha"] != "asked":
        chosen["alpha"] = 2 * rank
    multiplier = chosen["learning_rate_multiplier"]
    if not _is_number(multiplier) or multiplier <= 0:
        raise _refused(f"learning_rate_multiplier must be a number above 0, not {multiplier!r}")
    if "beta" in chosen and not (_is_number(chosen["beta"]) and 0 < chosen["beta"] <= MAX_BETA):
        raise _refused(f"beta must be a number above 0 and at most {MAX_BETA:g}, not {chosen['beta']!r}")
    base_rate, rule = _base_learning_rate(facts.hidden_size, method)
    sources["learning_rate"] = f"learning_rate_multiplier x {base_rate:.2g}; {rule}"
    return Recipe(
        method=method,
        n_epochs=epochs,
        batch_size=batch,
        learning_rate=base_rate * float(multiplier),
        learning_rate_multiplier=float(multiplier),
        rank=rank,
        alpha=chosen["alpha"] if facts.start else _whole("alpha", chosen["alpha"], 1, 1024),
        seed=seed,
        max_tokens=facts.context_tokens,
        dtype=facts.dtype,
        target_modules="those of the adapter it starts from" if facts.start else "all linear layers",
        start=facts.start.adapter_id if facts.start else None,
        beta=float(chosen["beta"]) if "beta" in chosen else None,
        asked=dict(asked),
        sources=sources,
    )


def _rules(facts: Facts) -> dict[str, tuple[Any, str]]:
    start, inherited = facts.start, "the model that training starts from"
    usual = min(16, facts.max_rank)
    return {
        "n_epochs": _epochs(facts.examples),
        "batch_size": _batch_size(facts.examples),
        "learning_rate_multiplier": (1.0, "the base model's own rate"),
        "beta": (USUAL_BETA, "0.1, the DPO paper's value for dialogue"),
        "rank": (start.rank, inherited) if start else (usual, "16, or the operator's limit"),
        "alpha": (start.alpha, inherited) if start else (2 * usual, "twice the rank"),
    }


def _epochs(examples: int) -> tuple[int, str]:
    # OpenAI's published rule: few examples are seen more often, very many less often.
    if 3 * examples < 100:
        return min(25, 100 // max(1, examples)), "about 100 examples in all, at most 25 epochs"
    if 3 * examples > 25_000:
        return max(1, 25_000 // examples), "about 25,000 examples in all"
    return 3, "3 epochs"


def _batch_size(examples: int) -> tuple[int, str]:
    # A small job needs updates more than smooth gradients. Measured on the demo (320 examples, 3 epochs, one CPU time):
    # validation loss 0.34, 0.14, 0.07, 0.04, 0.03 for batches of 16, 8, 4, 2, 1. OpenAI's own 0.2 % gives 1 there; but
    # one row per step leaves a larger machine mostly starting kernels, so the batch grows with the data until some
    # hundreds of updates are sure, and stops at 16 because LoRA learns less from large batches.
    size = min(16, 2 ** max(0, round(math.log2(max(1, examples) / 128))))
    return size, "a power of two near 1/128 of the examples, from 1 to 16"


def _base_learning_rate(hidden_size: int, method: str) -> tuple[float, str]:
    # LoRA on all linear layers wants about ten times the rate of full tuning, 2e-4 for ordinary widths. The best rate
    # of a matrix falls with its width (as in maximal-update parametrisation), so narrow models take more.
    rate = min(MAX_LEARNING_RATE, BASE_LEARNING_RATE * max(1.0, FULL_STRENGTH_WIDTH / hidden_size))
    rule = f"2e-4 x max(1, {FULL_STRENGTH_WIDTH} / hidden size), at most 2e-3"
    if method == "dpo":
        # Its gradient does not fade as that of a likelihood does: it pushes the rejected output down without end, and
        # at SFT's rate the chosen one goes down with it. TRL's published LoRA commands use 2e-4 for SFT and 5e-6 for
        # DPO (1/40, on 60,000 pairs), LLaMA-Factory's examples 1e-4 and 5e-6 (1/20); small files need the larger one.
        return rate * DPO_SHARE_OF_RATE, f"1/20 of SFT's {rule}"
    return rate, rule


def _whole(name: str, value: Any, low: int, high: int) -> int:
    # Numbers may arrive as ints or as floats (contract 3.1).
    if not _is_number(value) or value != int(value) or not low <= value <= high:
        raise _refused(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refused(reason: str) -> JobFailure:
    return JobFailure("invalid_hyperparameters", f"The job cannot be trained as asked: {reason}.", "hyperparameters")
