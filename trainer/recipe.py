"""What is trained and how, as one frozen value: every "auto" becomes a number here and nowhere else.

Each value keeps its source ("asked", or the rule that chose it); asked and resolved are both saved with the adapter.
Knows nothing about tensors, files or jobs.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rootstock import defaults
from rootstock.errors import JobFailure
from rootstock.records import ADAPTER_TYPES, TRAINABLE_METHODS

AUTO = "auto"

FULL_STRENGTH_WIDTH = 2048
BASE_LEARNING_RATE = 2e-4
MAX_LEARNING_RATE = 2e-3
MAX_BATCH_SIZE = 256
DPO_SHARE_OF_RATE = 1 / 20
FULL_SHARE_OF_RATE = 1 / 10
RL_SHARE_OF_RATE = 1 / 4
USUAL_SAMPLES = 8
MAX_SAMPLED_TOKENS = 2048
MAX_COMPUTE = 10.0
USUAL_BETA = 0.1
MAX_BETA = 2.0

HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
SAMPLING = ("reasoning_effort", "compute_multiplier", "eval_interval", "eval_samples")
ANSWER_LENGTH = "max_sampled_tokens"
SHAPE = ("type", "rank", "alpha", "rslora")
CONTROLS = ("patience", "min_delta", "stopping_metric", "budget_tokens", "budget_minutes")
STOPPING_METRICS = ("loss", "task")
OPTIONS = {
    "supervised": (*HYPERPARAMETERS, *SHAPE, *CONTROLS),
    "dpo": (*HYPERPARAMETERS, "beta", *SHAPE, *CONTROLS),
    "reinforcement": (*HYPERPARAMETERS, *SAMPLING, ANSWER_LENGTH, *SHAPE, *CONTROLS),
}
"""Method -> what may be asked for."""


@dataclass(frozen=True, slots=True)
class Start:
    """An adapter to go on from: its shape cannot be chosen any more."""

    adapter_id: str
    rank: int
    alpha: float
    rslora: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules may look at: the data, the base model and the operator's limits."""

    examples: int
    hidden_size: int
    context_tokens: int
    dtype: str
    max_rank: int
    start: "Start | None" = None
    validation_examples: int = 0
    usual_answer_tokens: int | None = None  # what the base model's generation config says
    takes_effort: bool = False  # whether the chat template can be told a reasoning effort


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
    type: str = "lora"  # what is trained: lora, qlora (on a base in four bits) or full (all weights)
    rslora: bool = False
    beta: float | None = None  # of DPO: how dear it is to leave the model that the run begins with
    reasoning_effort: str | None = None  # of reinforcement, and so are the next five
    compute_multiplier: float | None = None
    samples: int | None = None  # answers to each prompt of a step
    max_sampled_tokens: int | None = None  # of one answer
    eval_interval: int | None = None  # steps between two validations, each with a checkpoint
    eval_samples: int | None = None  # answers to each prompt of a validation
    patience: int | None = None  # full validations without a better one that end the run
    min_delta: float = 0.0  # what counts as better
    stopping_metric: str = "loss"  # of what: the validation loss, or the task metric of answers to held-out examples
    budget_tokens: int | None = None  # trained tokens after which the run ends
    budget_minutes: float | None = None
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
        own = [name for name in ("beta", *SAMPLING) if getattr(self, name) is not None]
        return self.hyperparameters() | {name: getattr(self, name) for name in own}

    def shape(self) -> dict[str, Any]:
        """What is trained, as the job echoes it."""
        if self.type == "full":
            return {"type": "full", "rank": None, "alpha": None, "rslora": None}
        return {name: getattr(self, name) for name in SHAPE}

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
    rules = _rules(facts, asked, method)
    for name in OPTIONS[method]:
        value, rule = rules[name]
        given = asked.get(name, AUTO)
        chosen[name], sources[name] = (value, f"auto: {rule}") if given in (AUTO, None) else (given, "asked")
    kind = chosen["type"]
    if kind not in ADAPTER_TYPES:
        raise _refused(f"type must be one of {', '.join(ADAPTER_TYPES)}, not {kind!r}")
    epochs = _whole("n_epochs", chosen["n_epochs"], 1, 50)
    batch = min(_whole("batch_size", chosen["batch_size"], 1, MAX_BATCH_SIZE), max(1, facts.examples))
    rank = _whole("rank", chosen["rank"], 1, facts.max_rank)
    if facts.start is not None:
        _keep_shape(chosen, facts.start)
    elif sources["alpha"] != "asked":
        chosen["alpha"] = 2 * rank
    multiplier = _above_zero("learning_rate_multiplier", chosen["learning_rate_multiplier"])
    base_rate, rule = _base_learning_rate(facts.hidden_size, method, kind)
    sources["learning_rate"] = f"learning_rate_multiplier x {base_rate:.2g}; {rule}"
    steps = epochs * math.ceil(max(1, facts.examples) / batch)
    return Recipe(
        method=method,
        n_epochs=epochs,
        batch_size=batch,
        learning_rate=base_rate * multiplier,
        learning_rate_multiplier=multiplier,
        rank=rank,
        alpha=chosen["alpha"] if facts.start else _whole("alpha", chosen["alpha"], 1, 1024),
        seed=seed,
        max_tokens=facts.context_tokens,
        dtype=facts.dtype,
        target_modules=_trained(kind, facts.start),
        start=facts.start.adapter_id if facts.start else None,
        type=kind,
        rslora=bool(chosen["rslora"]),
        beta=_above_zero("beta", chosen["beta"], MAX_BETA) if "beta" in chosen else None,
        **(_sampling(chosen, facts, steps) if method == "reinforcement" else {}),
        **_controls(chosen, facts, method),
        asked=dict(asked),
        sources=sources,
    )


def _keep_shape(chosen: Mapping[str, Any], start: Start) -> None:
    if chosen["type"] == "full" or any(chosen[name] != getattr(start, name) for name in ("rank", "alpha", "rslora")):
        raise _refused(f"the model to go on from is an adapter of rank {start.rank} and alpha {start.alpha:g}")


def _trained(kind: str, start: Start | None) -> str:
    if kind == "full":
        return "all weights"
    return "those of the adapter it starts from" if start else "all linear layers"


def _sampling(chosen: Mapping[str, Any], facts: Facts, steps: int) -> dict[str, Any]:
    """What reinforcement samples: how many answers to a prompt, how long, and how often it is measured."""
    effort = chosen["reasoning_effort"]
    if effort != "default" and not facts.takes_effort:
        raise _refused("the base model's chat template knows no reasoning_effort; leave it at 'default'")
    scale = _above_zero("compute_multiplier", chosen["compute_multiplier"], MAX_COMPUTE)
    return {
        "reasoning_effort": effort,
        "compute_multiplier": scale,
        "samples": max(2, round(USUAL_SAMPLES * scale)),
        # Prompts have up to half of the context, so that every answer has room in the other half.
        "max_sampled_tokens": min(
            _whole("max_sampled_tokens", chosen[ANSWER_LENGTH], 1, 10**6), max(1, facts.context_tokens // 2)
        ),
        "eval_interval": min(steps, _whole("eval_interval", chosen["eval_interval"], 1, 10**9)),
        "eval_samples": _whole("eval_samples", chosen["eval_samples"], 1, 1000),
    }


def _controls(chosen: Mapping[str, Any], facts: Facts, method: str) -> dict[str, Any]:
    """When to end before the last step; `None` switches each off."""
    metric = chosen["stopping_metric"]
    if metric not in STOPPING_METRICS:
        raise _refused(f"stopping_metric must be one of {', '.join(STOPPING_METRICS)}, not {metric!r}")
    if metric == "task" and (method != "supervised" or chosen["patience"] is None or not facts.validation_examples):
        raise _refused("stopping_metric 'task' needs the method supervised, a patience and a validation file")
    patience, tokens, minutes = chosen["patience"], chosen["budget_tokens"], chosen["budget_minutes"]
    delta = chosen["min_delta"]
    if not _is_number(delta) or delta < 0:
        raise _refused(f"min_delta must be a number of at least 0, not {delta!r}")
    return {
        "patience": None if patience is None else _whole("patience", patience, 1, 50),
        "min_delta": float(delta),
        "stopping_metric": metric,
        "budget_tokens": None if tokens is None else _whole("budget_tokens", tokens, 1, 2**53),
        "budget_minutes": None if minutes is None else _above_zero("budget_minutes", minutes),
    }


def _rules(facts: Facts, asked: Mapping[str, Any], method: str) -> dict[str, tuple[Any, str]]:
    start, inherited = facts.start, "the model that training starts from"
    usual = min(16, facts.max_rank)
    epochs, batch = defaults.epochs(facts.examples), defaults.batch_size(facts.examples, method)
    rounds = _number_or(asked.get("n_epochs"), epochs[0])
    steps = rounds * math.ceil(max(1, facts.examples) / _number_or(asked.get("batch_size"), batch[0]))
    return {
        "n_epochs": epochs,
        "batch_size": batch,
        "learning_rate_multiplier": (1.0, "the base model's own rate"),
        "beta": (USUAL_BETA, "0.1, the DPO paper's value for dialogue"),
        "rank": (start.rank, inherited) if start else (usual, "16, or the operator's limit"),
        "alpha": (start.alpha, inherited) if start else (2 * usual, "twice the rank"),
        "rslora": (start.rslora, inherited) if start else (False, "alpha is divided by the rank"),
        "type": ("lora", "an adapter is small and is served beside others"),
        "reasoning_effort": ("default", "the base model's own"),
        "compute_multiplier": (1.0, f"{USUAL_SAMPLES} answers to each prompt"),
        "eval_interval": (max(1, round(steps / 10)), "ten validations in a run"),
        "eval_samples": (
            max(1, min(8, math.ceil(64 / max(1, facts.validation_examples)))),
            "about 64 answers in all, 1 to 8 to each prompt",
        ),
        ANSWER_LENGTH: (
            facts.usual_answer_tokens or MAX_SAMPLED_TOKENS,
            "the base model's own limit, or 2048; at most half of the context",
        ),
        "patience": (None, "no early stopping"),
        "min_delta": (0.0, "any improvement counts"),
        "stopping_metric": ("loss", "the validation loss"),
        "budget_tokens": (None, "no limit"),
        "budget_minutes": (None, "no limit"),
    }


def _number_or(asked: Any, rule: int) -> float:
    return float(asked) if _is_number(asked) and asked > 0 else rule


def _base_learning_rate(hidden_size: int, method: str, kind: str) -> tuple[float, str]:
    # LoRA on all linear layers wants about ten times the rate of full tuning, 2e-4 for ordinary widths. The best rate
    # of a matrix falls with its width (as in maximal-update parametrisation), so narrow models take more.
    rate = min(MAX_LEARNING_RATE, BASE_LEARNING_RATE * max(1.0, FULL_STRENGTH_WIDTH / hidden_size))
    rule = f"2e-4 x max(1, {FULL_STRENGTH_WIDTH} / hidden size), at most 2e-3"
    if method == "dpo":
        # Its gradient does not fade as that of a likelihood does: it pushes the rejected output down without end, and
        # at SFT's rate the chosen one goes down with it. TRL's published LoRA commands use 2e-4 for SFT and 5e-6 for
        # DPO (1/40, on 60,000 pairs), LLaMA-Factory's examples 1e-4 and 5e-6 (1/20); small files need the larger one.
        rate, rule = rate * DPO_SHARE_OF_RATE, f"1/20 of SFT's {rule}"
    elif method == "reinforcement":
        rate, rule = rate * RL_SHARE_OF_RATE, f"1/4 of SFT's {rule}"
    if kind == "full":
        # "LoRA without regret" (Schulman et al. 2025): the best LoRA rate is about ten times that of full tuning.
        rate, rule = rate * FULL_SHARE_OF_RATE, f"1/10 for all weights, of {rule}"
    return rate, rule


def _above_zero(name: str, value: Any, most: float = math.inf) -> float:
    if not _is_number(value) or not 0 < value <= most:
        at_most = "" if most == math.inf else f" and at most {most:g}"
        raise _refused(f"{name} must be a number above 0{at_most}, not {value!r}")
    return float(value)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    # Numbers may arrive as ints or as floats (contract 3.1).
    if not _is_number(value) or value != int(value) or not low <= value <= high:
        raise _refused(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refused(reason: str) -> JobFailure:
    return JobFailure("invalid_hyperparameters", f"The job cannot be trained as asked: {reason}.", "hyperparameters")
