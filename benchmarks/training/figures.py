"""The figures of the training benchmark: which runs make one, in which order, and what it must reach.

Knows how sides are asked (`Sides`), not how they train.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from benchmarks.training.measure import TOLERANCE, Ratio, loss_gap


class Sides(Protocol):
    """The running sides."""

    def ask(self, side: str, do: str, **arguments: Any) -> dict[str, Any]:
        """One command to a side that stays warm between commands."""

    def ask_fresh(self, side: str, do: str, **arguments: Any) -> dict[str, Any]:
        """One command to a new process of a side."""

    def cold(self) -> float:
        """Wall seconds of a TRL script from its start until its adapter is stored."""

    def note(self, text: str) -> None:
        """Tell the user what is running."""


@dataclass
class Figure:
    """One line of the table. `value` is at least (or at most) `target` when the figure is reached."""

    name: str
    value: float | None
    target: float
    least: bool = True
    spread: str = ""
    unit: str = "x"
    invalid: str = ""  # why it may not be quoted
    raw: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """reached, below or invalid."""
        if self.invalid or self.value is None:
            return "invalid"
        reached = self.value >= self.target if self.least else self.value <= self.target
        return "reached" if reached else "below"

    def to_json(self) -> dict[str, Any]:
        """The form of the results file."""
        return asdict(self) | {"verdict": self.verdict}


Command = tuple[str, str, dict[str, Any]]


def compare(
    sides: Sides, name: str, other: Command, ours: Command, target: float, repeats: int, *, dtype: str = "float32"
) -> Figure:
    """Two runs in turn, whose losses must agree; the value is other CPU seconds / our CPU seconds."""
    rounds: list[dict[str, Any]] = []
    for number in range(repeats):
        sides.note(f"{name}: {number + 1} of {repeats}")
        pair = {}
        # Who goes first changes, so that a machine that gets slower does not favour one side.
        for who, command in [("other", other), ("ours", ours)][:: 1 if number % 2 == 0 else -1]:
            side, do, arguments = command
            pair[who] = sides.ask(side, do, **arguments)
        rounds.append(pair)
        failed = next((f"{who}: {answer['error']}" for who, answer in pair.items() if "error" in answer), None)
        if failed:
            return Figure(name, None, target, invalid=failed, raw=rounds)
    ratio = Ratio.of([r["other"]["cpu_s"] for r in rounds], [r["ours"]["cpu_s"] for r in rounds])
    gap = max(loss_gap(r["other"]["losses"], r["ours"]["losses"]) for r in rounds)
    apart = f"losses differ by {gap:.1e}" if gap > TOLERANCE[dtype] else ""
    return Figure(name, ratio.median, target, spread=str(ratio), invalid=apart, raw=rounds)


def single_job(sides: Sides, repeats: int, rows: int) -> list[Figure]:
    """One job against each competitor, in each precision that both have."""
    found = []
    table: list[tuple[str, str, dict[str, Any], str, float]] = [
        ("TRL as shipped (bf16)", "trl", {"variant": "shipped"}, "bfloat16", 3.0),
        ("TRL as shipped, fp32", "trl", {"variant": "fp32"}, "float32", 3.0),
        ("TRL tuned, fp32", "trl", {"variant": "tuned"}, "float32", 1.8),
        ("TRL tuned, bf16", "trl", {"variant": "tuned_bf16"}, "bfloat16", 1.8),
        ("HF Trainer + PEFT, fp32", "hf", {}, "float32", 2.7),
        ("HF Trainer + PEFT, bf16", "hf", {"bf16": True}, "bfloat16", 2.7),
    ]
    for name, side, more, dtype, target in table:
        data: dict[str, Any] = {"rows": "chat", "count": rows}
        other, ours = (side, "train", data | more), ("engine", "train", data | {"dtype": dtype})
        found.append(compare(sides, f"one job / {name}", other, ours, target, repeats, dtype=dtype))
    return found


def shared_prompt(sides: Sides, repeats: int, rows: int) -> list[Figure]:
    """A system prompt of 170 tokens in every row, batch 8, computed once per step or in every row."""
    run: dict[str, Any] = {"rows": "prompted", "jobs": 1, "batch": 8, "steps": rows // 8}
    off, on = ("engine", "several", run | {"share": False}), ("engine", "several", run)
    return [compare(sides, "shared 170-token prompt / own engine without sharing", off, on, 1.5, repeats)]


def together(sides: Sides, repeats: int) -> list[Figure]:
    """Jobs together against one after another, in the regime that pays and in those that must not cost."""
    regimes: list[tuple[str, dict[str, Any], float]] = [
        ("8 jobs, 1 row of 40 tokens", {"rows": "short", "jobs": 8, "batch": 1, "steps": 4}, 1.4),
        ("8 jobs, 4 rows of 40 tokens", {"rows": "short", "jobs": 8, "batch": 4, "steps": 2}, 0.97),
        ("2 jobs, 1 row of 150 tokens", {"rows": "chat", "jobs": 2, "batch": 1, "steps": 6}, 0.97),
        ("8 jobs, 1 row of 150 tokens", {"rows": "chat", "jobs": 8, "batch": 1, "steps": 3}, 0.97),
        ("8 jobs, 4 rows of 150 tokens", {"rows": "chat", "jobs": 8, "batch": 4, "steps": 2}, 0.97),
    ]
    found = []
    for name, run, target in regimes:
        alone, both = (("engine", "several", run | {"how": how}) for how in ("alone", "together"))
        found.append(compare(sides, f"together / one after another: {name}", alone, both, target, repeats))
    return found


def operations(sides: Sides) -> list[Figure]:
    """Tensor operations dispatched per job and step, 28 layers, 8 jobs of 2 rows; a count, so once is enough."""
    sides.note("operations")
    ours, theirs = sides.ask("engine", "ops", jobs=8, batch=2), sides.ask("hf", "ops", batch=2)
    name = "operations per job-step, 8 jobs / PEFT bf16 autocast"
    return [_quotient(name, ours, theirs, lambda run: run["operations"] / run["jobs"], 1 / 9)]


def memory(sides: Sides, repeats: int) -> list[Figure]:
    """The most that one job holds above the imports, each run in a new process."""
    rounds: list[dict[str, Any]] = []
    for number in range(repeats):
        sides.note(f"peak memory: {number + 1} of {repeats}")
        run = {"rows": "prompted", "count": 24}
        theirs = sides.ask_fresh("trl", "train", variant="tuned", **run)
        rounds.append({"ours": sides.ask_fresh("engine", "train", **run), "other": theirs})
    name = "peak memory above imports / TRL tuned"
    broken = _errors([answer for pair in rounds for answer in pair.values()])
    if broken:
        return [Figure(name, None, 1 / 2.5, least=False, invalid=broken, raw=rounds)]
    ours, other = ([pair[who]["peak_above_imports_mb"] for pair in rounds] for who in ("ours", "other"))
    gap = max(loss_gap(pair["ours"]["losses"], pair["other"]["losses"]) for pair in rounds)
    ratio = Ratio.of(ours, other)
    apart = f"losses differ by {gap:.1e}" if gap > TOLERANCE["float32"] else ""
    return [Figure(name, ratio.median, 1 / 2.5, least=False, spread=str(ratio), invalid=apart, raw=rounds)]


def equality(sides: Sides) -> list[Figure]:
    """How far adapters of a co-training are from those of each job alone, and that the check would notice."""
    sides.note("equality")
    answer = sides.ask("engine", "equality", jobs=4, batch=2, steps=4)
    name = "adapter from co-training against the job alone"
    broken = _errors([answer])
    if broken:
        return [Figure(name, None, 1e-6, least=False, unit="", invalid=broken, raw=[answer])]
    blind = "" if answer["control"] > 1e-2 else f"swapped adapters differ by only {answer['control']:.1e}"
    spread = f"swapped adapters: {answer['control']:.2f}"
    return [Figure(name, answer["relative"], 1e-6, least=False, unit="", spread=spread, invalid=blind, raw=[answer])]


def time_to_adapter(sides: Sides, repeats: int) -> list[Figure]:
    """Wall seconds from a tiny job (16 rows, 2 steps) to its stored adapter: warm engine against a TRL script.

    The clock of ours runs around the training call of a loaded base; queue and database are not in it.
    """
    rounds: list[dict[str, Any]] = []
    name = "tiny job to stored adapter, warm / cold TRL script"
    for number in range(repeats):
        sides.note(f"{name}: {number + 1} of {repeats}")
        rounds.append({"cold_s": sides.cold(), "ours": sides.ask("engine", "train", rows="chat", count=16)})
    broken = _errors([pair["ours"] for pair in rounds])
    if broken:
        return [Figure(name, None, 5.0, invalid=broken, raw=rounds)]
    ratio = Ratio.of([pair["cold_s"] for pair in rounds], [pair["ours"]["wall_s"] for pair in rounds])
    return [Figure(name, ratio.median, 5.0, spread=str(ratio), raw=rounds)]


def _quotient(
    name: str, ours: dict[str, Any], other: dict[str, Any], of: Callable[[dict[str, Any]], float], target: float
) -> Figure:
    raw = [{"ours": ours, "other": other}]
    broken = _errors([ours, other])
    if broken:
        return Figure(name, None, target, least=False, invalid=broken, raw=raw)
    spread = f"1/{of(other) / of(ours):.1f}: {of(ours):,.0f} of {of(other):,.0f}"
    return Figure(name, of(ours) / of(other), target, least=False, spread=spread, raw=raw)


def _errors(answers: Sequence[dict[str, Any]]) -> str:
    return "; ".join(answer["error"] for answer in answers if "error" in answer)
