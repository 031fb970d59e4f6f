"""Runs the training benchmark: starts the sides, asks them in turn, prints the table, writes the results file.

`make bench-train`. Every number is CPU seconds on one thread unless a figure says otherwise; a figure below its target
is printed as such.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.training import figures, work

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
PYTHON = {"engine": ".venv/bin/python", "hf": ".venv-bench/bin/python", "trl": ".venv-bench/bin/python"}
NAMES = ("single", "shared", "together", "operations", "memory", "equality", "time")


class Side:
    """One competitor's process."""

    def __init__(self, name: str, folder: Path, log: Any) -> None:
        self._process = subprocess.Popen(
            [ROOT / PYTHON[name], "-m", f"benchmarks.training.sides.{name}", "--work", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        self.about = self._answer()

    def ask(self, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One command and its answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended; see the log"}
        return answer


class Processes:
    """The sides, each started when it is first asked."""

    def __init__(self, folder: Path, console: Console, log: Any) -> None:
        self._folder, self._console, self._log = folder, console, log
        self._warm: dict[str, Side] = {}

    def ask(self, side: str, do: str, **arguments: Any) -> dict[str, Any]:
        """See `figures.Sides`. What the sides do first (kernels chosen, memory taken) is done before a clock runs."""
        if side not in self._warm:
            self._warm[side] = Side(side, self._folder, self._log)
            self._warm[side].ask("train", {"rows": "short", "count": 8})
        return self._warm[side].ask(do, arguments)

    def ask_fresh(self, side: str, do: str, **arguments: Any) -> dict[str, Any]:
        """See `figures.Sides`."""
        process = Side(side, self._folder, self._log)
        try:
            return process.ask(do, arguments)
        finally:
            process.close()

    def cold(self) -> float:
        """See `figures.Sides`."""
        with tempfile.TemporaryDirectory() as out:
            script = [ROOT / PYTHON["trl"], "-m", "benchmarks.training.sides.trl", "--cold", str(self._folder), out]
            began = time.perf_counter()
            subprocess.run(script, cwd=ROOT, env=environment(), stdout=self._log, stderr=self._log, check=True)
            took = time.perf_counter() - began
            assert (Path(out) / "adapter_model.safetensors").exists()
        return took

    def note(self, text: str) -> None:
        """See `figures.Sides`."""
        self._console.print(f"[dim]{text}[/dim]")

    def versions(self) -> dict[str, Any]:
        """What each started side runs on."""
        return {name: side.about.get("versions") for name, side in self._warm.items()}

    def close(self) -> None:
        """End all sides."""
        for side in self._warm.values():
            side.close()


def environment() -> dict[str, str]:
    """One thread for everybody: with two, a busy core makes threads spin and CPU seconds mean nothing."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return (
        dict(os.environ) | threads | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    )


def about() -> dict[str, Any]:
    """What the numbers depend on."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpus = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "cpu": cpus[0] if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def table(found: list[figures.Figure]) -> Table:
    """The figures as they are printed."""
    shown = Table("figure", "median [min-max]", "target", "verdict", title="make bench-train")
    colours = {"reached": "green", "below": "red", "invalid": "yellow"}
    for figure in found:
        value = figure.spread if figure.unit else f"{figure.value or 0:.1e} ({figure.spread})"
        target = f"{'>=' if figure.least else '<='} {figure.target:.3g}{figure.unit}"
        verdict = f"[{colours[figure.verdict]}]{figure.verdict}[/] {figure.invalid}"
        shown.add_row(figure.name, value, target, verdict)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of each comparison (default: 5)")
    parser.add_argument("--rows", type=int, default=32, help="rows of the single job (default: 32)")
    parser.add_argument("--only", choices=NAMES, action="append", help="these figures only; may be repeated")
    parser.add_argument("--work", type=Path, default=ROOT / ".rootstock" / "bench-train", help="where data is written")
    parser.add_argument(
        "--save", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}, or with --only a file beside it"
    )
    given = parser.parse_args()
    console = Console()
    work.prepare(given.work)
    report = about() | {"repeats": given.repeats, "rows": given.rows}
    found: list[figures.Figure] = []
    with (given.work / "sides.log").open("w") as log:
        sides = Processes(given.work, console, log)
        stages = {
            "single": lambda: figures.single_job(sides, given.repeats, given.rows),
            "shared": lambda: figures.shared_prompt(sides, given.repeats, given.rows),
            "together": lambda: figures.together(sides, given.repeats),
            "operations": lambda: figures.operations(sides),
            "memory": lambda: figures.memory(sides, min(3, given.repeats)),
            "equality": lambda: figures.equality(sides),
            "time": lambda: figures.time_to_adapter(sides, min(3, given.repeats)),
        }
        try:
            for name in given.only or NAMES:
                found += stages[name]()
            report["versions"] = sides.versions()
        finally:
            sides.close()
    console.print(table(found))
    if given.save:
        # Some figures measured again do not take the place of a whole run.
        place = RESULTS.with_stem("-".join([RESULTS.stem, *given.only])) if given.only else RESULTS
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(report | {"figures": [f.to_json() for f in found]}, indent=1) + "\n", "utf-8")
    return 0 if all(figure.verdict == "reached" for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
