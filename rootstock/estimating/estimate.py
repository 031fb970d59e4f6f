"""An estimate of one job from what is known before it runs. Pure; what it rests on is said with every number."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rootstock import defaults
from rootstock.estimating.model import Bars, Past, bytes_per_token, speed

USUAL_BYTES_PER_TOKEN = Bars(3.0, 5.0, 9.0)
"""Of chat lines in JSON with the tokenizers of the day; English prose has 4 to 5 characters a token, JSON aside."""

UTILISATION = Bars(0.1, 0.3, 0.5)
"""Share of a device's peak that LoRA training reaches: the range that is published for single devices."""

FORWARD_AND_BACKWARD = {"lora": 4, "qlora": 4, "full": 6}
"""Operations for each weight and token (Kaplan et al. 2020); beside an adapter the base's weights need no gradient."""

FORWARD = 2
PROMPTED_EXAMPLES = 5
"""Examples in the prompt of whoever would rather prompt than tune."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a job when it is created. `None` for what was not asked or cannot be known."""

    method: str
    type: str
    file_bytes: int
    examples: int
    n_epochs: int | None = None
    batch_size: int | None = None
    budget_tokens: int | None = None
    budget_seconds: float | None = None
    weights: int | None = None  # of the base model
    memory_gib: float | None = None  # the least that it needs
    peak_flops: float = 0.0  # of the device; 0: not known
    price_per_hour: float = 0.0  # of the device; 0: not known
    ahead: int = 0  # jobs that wait for the same base or train on it


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the job will take. `None` where nothing tells it; `notes` say why, and what would."""

    examples: int
    n_epochs: int
    batch_size: int
    steps: int
    trained_tokens: Bars
    peak_memory_gib: Bars | None
    seconds: Bars | None
    cost: Bars | None
    break_even_calls: int | None
    saved_tokens_per_call: int
    jobs_ahead: int
    based_on: str  # history | roofline | nothing
    jobs: int  # that it learned from
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As it is stored and shown."""
        return asdict(self)


def estimate(plan: Plan, past: Sequence[Past]) -> Estimate:
    """The estimate of a job; `past` are ended jobs of the same base, method and type, newest first.

    Example: `estimate(Plan("supervised", "lora", 40_000, 320), []).steps` is 480.
    """
    notes: list[str] = []
    epochs = plan.n_epochs or defaults.epochs(plan.examples)[0]
    batch = min(plan.batch_size or defaults.batch_size(plan.examples, plan.method)[0], max(1, plan.examples))
    steps = epochs * math.ceil(max(1, plan.examples) / batch)
    rate = bytes_per_token(past)
    if rate is None:
        rate = USUAL_BYTES_PER_TOKEN
        notes.append("No job like this has ended here yet: tokens are guessed from the size of the file.")
    read = plan.file_bytes * epochs
    tokens = Bars(read / rate.high, read / rate.mean, read / rate.low)
    length = tokens.mean / epochs / max(1, plan.examples)
    if plan.budget_tokens is not None and tokens.high > plan.budget_tokens:
        share = min(1.0, plan.budget_tokens / tokens.mean)
        tokens = Bars(*(min(value, plan.budget_tokens) for value in (tokens.low, tokens.mean, tokens.high)))
        steps = max(1, math.ceil(steps * share))
        notes.append("rootstock.budget.max_tokens may end the job before its last step.")
    seconds, based_on = _seconds(plan, past, steps, tokens, length, notes)
    if seconds is not None and plan.budget_seconds is not None and seconds.high > plan.budget_seconds:
        seconds = Bars(*(min(value, plan.budget_seconds) for value in (seconds.low, seconds.mean, seconds.high)))
        notes.append("rootstock.budget.max_minutes may end the job before its last step.")
    cost = seconds.times(plan.price_per_hour / 3600) if seconds and plan.price_per_hour else None
    if not plan.price_per_hour:
        notes.append("The cost is not known: set ROOTSTOCK_PRICE_PER_GPU_HOUR.")
    saved = round(PROMPTED_EXAMPLES * length)
    trained = FORWARD_AND_BACKWARD[plan.type] * tokens.mean
    return Estimate(
        examples=plan.examples,
        n_epochs=epochs,
        batch_size=batch,
        steps=steps,
        trained_tokens=tokens,
        peak_memory_gib=_memory(plan, past),
        seconds=seconds,
        cost=cost,
        break_even_calls=math.ceil(trained / (FORWARD * saved)) if saved else None,
        saved_tokens_per_call=saved,
        jobs_ahead=plan.ahead,
        based_on=based_on,
        jobs=len(past),
        notes=notes,
    )


def _seconds(
    plan: Plan, past: Sequence[Past], steps: int, tokens: Bars, length: float, notes: list[str]
) -> tuple[Bars | None, str]:
    learned = speed(past)
    if learned is not None:
        return learned.seconds(steps, tokens, length), "history"
    if plan.peak_flops and plan.weights:
        work = FORWARD_AND_BACKWARD[plan.type] * plan.weights / plan.peak_flops
        notes.append("Fewer than three jobs like this have ended here: the time is that of a roofline.")
        return Bars(
            tokens.low * work / UTILISATION.high,
            tokens.mean * work / UTILISATION.mean,
            tokens.high * work / UTILISATION.low,
        ), "roofline"
    notes.append(
        "The time is not known: fewer than three jobs like this have ended here. ROOTSTOCK_TRAINER_PEAK_FLOPS would "
        "give a roofline."
    )
    return None, "nothing"


def _memory(plan: Plan, past: Sequence[Past]) -> Bars | None:
    seen = sorted(job.memory_bytes / 1024**3 for job in past if job.memory_bytes)
    if seen:
        # A worker's high-water mark is that of all jobs it ever held, so it bounds this one from above.
        least = plan.memory_gib or 0.0
        return Bars(min(least, seen[0]), max(least, seen[len(seen) // 2]), max(least, seen[-1]))
    return None if plan.memory_gib is None else Bars(plan.memory_gib, 1.5 * plan.memory_gib, 3 * plan.memory_gib)
