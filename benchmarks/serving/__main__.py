"""Runs the serving benchmark: starts both sides, asks them in turn, prints the table, writes the results file.

`make bench-serve`. On a machine without a GPU the numbers are of a small model on its cores; ratios carry over, times
do not. A figure below its target is printed as such.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.serving import figures
from benchmarks.serving.figures import Row
from benchmarks.serving.stack import CORES, ENGINE_CORES, OTHER_CORES, ROOT, Bench, s3

RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("throughput", "first", "many", "memory", "warmth", "routing", "flip")


def one_replica(bench: Bench, wanted: set[str], requests: int) -> Iterator[Row]:
    """All figures of one vLLM behind one gateway."""
    many = 512 if "many" in wanted else 24
    made = bench.make(many + 24)
    stamped = "benchmarks.serving.stamps"
    with bench.vllm(module=stamped, max_loras=4, max_cpu_loras=32) as (vllm,), bench.gateway([vllm]) as front:
        if "memory" in wanted:
            yield figures.memory(vllm, bench, made[:24])
        if "throughput" in wanted:
            yield from figures.throughput(vllm, front, bench, made[0], requests)
        if "first" in wanted:
            yield from figures.first_tokens(vllm, front, bench, made[0], requests)
        if "warmth" in wanted:
            yield from figures.warmth(vllm, front, bench, made[many:])
        if "flip" in wanted:
            yield asyncio.run(figures.flip(front, bench.key, "bench-alias", made[0].name, made[1].name))
        if "many" in wanted:
            with bench.plain(bench.merged(made[0])) as plain:
                yield from figures.many(front, plain, bench, made[:many], requests)


def two_replicas(bench: Bench, requests: int) -> Iterator[Row]:
    """200 adapters, two replicas of 16 places each, three ways of routing."""
    made = bench.make(200)
    with contextlib.ExitStack() as stack:
        vllm = stack.enter_context(bench.vllm(2, max_loras=16, max_cpu_loras=16))
        figures.on_disk(vllm, made)  # or the first kind would pay for the others' downloads
        kinds = ("residency", "random", "round_robin")
        found: dict[str, list[figures.Routed]] = {kind: [] for kind in kinds}
        for order in (kinds, kinds[::-1]):  # a machine that gets slower must not be one kind's fault
            for kind in order:
                with bench.gateway(vllm, routing=kind) as front:
                    found[kind].append(figures.routed(front, vllm, bench, made, requests))
        for kind, rounds in found.items():
            yield figures.routing(kind, rounds)


def main() -> int:
    """Parse, run, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--only", choices=NAMES, nargs="+", default=list(NAMES), help="which figures (all)")
    parser.add_argument("--requests", type=int, default=160, help="requests of one measurement (160)")
    parser.add_argument("--base", help="folder or hub id of the base model (the small one that ships here)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/serving.json and serving.md")
    given = parser.parse_args()
    os.sched_setaffinity(0, OTHER_CORES)
    console, rows = Console(), []
    parts: list[Callable[[Bench], Iterator[Row]]] = []
    wanted = set(given.only)
    if wanted - {"routing"}:
        parts.append(lambda bench: one_replica(bench, wanted, given.requests))
    if "routing" in wanted:
        parts.append(lambda bench: two_replicas(bench, 2 * given.requests))
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder, s3() as endpoint:
            for row in part(Bench(Path(folder), given.base, endpoint)):
                console.print(f"{row.figure}, {row.case}: {row.value} {row.target}", highlight=False)
                rows.append(row)
    rows += list(figures.compared(rows))
    console.print(table(rows))
    if given.save:
        save(rows, given)
    return 0


def table(rows: list[Row]) -> Table:
    """For people."""
    shown = Table("figure", "case", "value", "target", "verdict")
    for row in rows:
        verdict = "" if row.reached is None else "reached" if row.reached else "below"
        shown.add_row(row.figure, row.case, row.value, row.target, verdict)
    return shown


def save(rows: list[Row], given: argparse.Namespace) -> None:
    """The raw numbers with what they were measured on, and a page."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    about = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "cpu": cpu or platform.processor(),
        "cores": len(CORES),
        "engine_cores": len(ENGINE_CORES),
        "base": given.base or "rootstock-tiny",
        "requests": given.requests,
        "python": sys.version,
        "versions": {name: metadata.version(name) for name in ("fastapi", "uvicorn", "uvloop")},
    }
    file = RESULTS / "serving.json"
    kept = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []
    fresh = {(row.figure, row.case): asdict(row) | {"commit": about["commit"]} for row in rows}
    every = [fresh.pop((row["figure"], row["case"]), row) for row in kept] + list(fresh.values())
    file.write_text(json.dumps({"about": about, "rows": every}, indent=1) + "\n", encoding="utf-8")
    lines = [
        "# What `make bench-serve` measured",
        "",
        f"On {about['cores']} cores of an {about['cpu']}, Python {about['python']}, base `{about['base']}`. vLLM has "
        f"{about['engine_cores']} of the cores, gateway and clients the rest. `serving.json` holds the raw numbers. "
        f"This is so of the rows of {about['commit']}; those of other commits were measured then, perhaps on another "
        "machine.",
        "",
        f"{about['requests']} requests to a measurement. What the gateway adds to a first token is how much longer the "
        "way from the client to vLLM's server and back is, by vLLM's own notes of both moments (`stamps`), loads in "
        "turn; the interval is that of the difference of the medians. Throughput is that "
        f"of the same answers of {figures.ANSWER_TOKENS} tokens in turn; the interval is that of the ratio of the "
        "whole times.",
        "",
        "| figure | case | value | target | verdict | commit |",
        "|---|---|---|---|---|---|",
    ]
    for row in every:
        verdict = "" if row["reached"] is None else "reached" if row["reached"] else "below"
        told = (row["figure"], row["case"], row["value"], row["target"], verdict, row["commit"])
        lines.append(f"| {' | '.join(told)} |")
    (RESULTS / "serving.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
