"""How a run is measured: CPU seconds, peak memory, operations; and how runs become a ratio that may be quoted.

Needs nothing but the standard library until `OpCounter` is used, so that every side's imports cost the same.
"""

import math
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-3}
"""How far the losses of two sides may be apart at any step."""


def cpu_seconds() -> float:
    """User and system seconds of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mb() -> float:
    """Megabytes this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """The most this process ever held, in megabytes. (`ru_maxrss` would start at what the parent held.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024 / 1e6


class Clock:
    """CPU and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = cpu_seconds(), time.perf_counter()

    def read(self) -> dict[str, float]:
        """Seconds so far."""
        return {"cpu_s": cpu_seconds() - self._cpu, "wall_s": time.perf_counter() - self._wall}


def op_counter() -> Any:
    """A context whose `count` grows with every operation that computes: views and bookkeeping launch no kernel."""
    from torch.utils._python_dispatch import TorchDispatchMode

    free = {
        "detach",
        "_unsafe_view",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "lift_fresh",
    }

    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            if not (func.is_view or name in free):
                self.count += 1
            return func(*args, **(kwargs or {}))

    return Counter()


def loss_gap(left: Sequence[float], right: Sequence[float]) -> float:
    """The largest difference at any step; infinite when one has more steps or a loss is no number."""
    if len(left) != len(right) or not left:
        return float("inf")
    gaps = [abs(a - b) for a, b in zip(left, right, strict=True)]
    return max(gaps) if all(map(math.isfinite, gaps)) else float("inf")


@dataclass(frozen=True)
class Ratio:
    """Other / ours of each repetition: how often ours fits into the other's time."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, other: Sequence[float], ours: Sequence[float]) -> "Ratio":
        """Repetition by repetition: what ran next to each other is compared."""
        each = [a / b for a, b in zip(other, ours, strict=True)]
        return cls(statistics.median(each), min(each), max(each))

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}-{self.high:.2f}]"
