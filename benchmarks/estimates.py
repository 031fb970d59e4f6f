"""How near estimates come: jobs of many shapes are estimated, trained one after another, and held against both.

`make bench-estimates` starts a stack without serving, trains some jobs whose estimates teach nothing yet, then others
that are estimated from those, and writes the table into docs/estimates.md. Knows the
API, and reads what jobs took from the stack's database.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from rich.progress import Progress

from rootstock import estimates
from rootstock.db import Database
from scripts.demo import Stack

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "estimates.md"
RESULTS = ROOT / "benchmarks" / "results" / "estimates.json"
MARK = "## Measured"
WITHIN, TARGET = 0.25, 0.9


@dataclass(frozen=True)
class Shape:
    """What is trained: so many examples, each of so many lines of the demo's, in batches, for epochs."""

    examples: int
    lines: int
    batch_size: int
    n_epochs: int


@dataclass(frozen=True)
class Held:
    """An estimate beside what came of it."""

    shape: Shape
    source: str
    seconds: dict[str, float] | None
    took: float
    tokens: dict[str, float]
    trained: int

    @property
    def off(self) -> float:
        """The share by which the time was misjudged."""
        return abs((self.seconds or {"mean": 0.0})["mean"] / self.took - 1)


def shapes(count: int, seed: int) -> list[Shape]:
    """So many jobs, no two alike."""
    source = random.Random(seed)
    return [
        Shape(source.randint(30, 400), source.randint(1, 4), source.choice((1, 2, 4, 8, 16)), source.randint(1, 3))
        for _ in range(count)
    ]


def content(shape: Shape) -> bytes:
    """A training file of that shape, of the demo's lines."""
    rows = [json.loads(line) for line in (ROOT / "examples/data/tickets-train.jsonl").read_text("utf-8").splitlines()]
    made = []
    for number in range(shape.examples):
        picked = [rows[(number + step) % len(rows)]["messages"] for step in range(shape.lines)]
        made.append(json.dumps({"messages": picked[0] + [m for more in picked[1:] for m in more[-2:]]}))
    return ("\n".join(made) + "\n").encode()


def held(client: OpenAI, database: Database, shape: Shape) -> Held:
    """Estimate one job, train it, look at what it took."""
    file = client.files.create(file=("train.jsonl", content(shape)), purpose="fine-tune").id
    hyperparameters = {"batch_size": shape.batch_size, "n_epochs": shape.n_epochs}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    body: Any = {"model": "gpt-4o-mini", "training_file": file, "method": method}
    told = client.post("/rootstock/estimates", body=body, cast_to=httpx.Response).json()
    job = client.fine_tuning.jobs.create(**body)
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        raise RuntimeError(f"{job.id} {job.status}: {job.error}")
    with database.read() as tx:
        found = estimates.find(tx, job.id)
    assert found is not None
    took = found["actual"]["seconds"]
    tokens = job.trained_tokens or 0
    return Held(shape, told["based_on"]["source"], told["seconds"], took, told["trained_tokens"], tokens)


def page(rows: list[Held], about: dict[str, Any]) -> str:
    """The section of docs/estimates.md."""
    learned = [row for row in rows if row.source == "history"]
    near = sum(row.off <= WITHIN for row in learned)
    inside = sum(bool(r.seconds) and r.seconds["low"] <= r.took <= r.seconds["high"] for r in learned if r.seconds)
    tokens = sum(row.tokens["low"] <= row.trained <= row.tokens["high"] for row in learned)
    reached = "reached" if near >= TARGET * len(learned) else "below"
    lines = [
        MARK,
        "",
        f"`make bench-estimates` at {about['commit']} on {about['cores']} cores of an {about['cpu']}: {len(rows)} jobs "
        f"of different shapes on the small base, one after another; {len(rows) - len(learned)} of them had no history.",
        "",
        f"- time within 25 %: {near} of {len(learned)} (target 9 of 10: {reached})",
        f"- time between the bars: {inside} of {len(learned)}",
        f"- trained tokens between the bars: {tokens} of {len(learned)}",
        "",
        "| examples | epochs | batch | estimated seconds | took | estimated tokens | trained |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = "unknown" if row.seconds is None else "{mean:.0f} ({low:.0f}-{high:.0f})".format(**row.seconds)
        told = "{mean:.0f} ({low:.0f}-{high:.0f})".format(**row.tokens)
        shape = row.shape
        lines.append(
            f"| {shape.examples} | {shape.n_epochs} | {shape.batch_size} | {seconds} | {row.took:.0f} | {told} "
            f"| {row.trained} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Parse, run, print, save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__)
    parser.add_argument("--history", type=int, default=6, help="jobs that only teach (6)")
    parser.add_argument("--jobs", type=int, default=12, help="jobs that are held against their estimates (12)")
    parser.add_argument("--save", action="store_true", help="write docs/estimates.md and the raw numbers")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder, Progress() as progress:
        stack = Stack(Path(folder), "--no-serving")
        try:
            client = OpenAI(base_url=stack.wait(), api_key=(stack.data_dir / "api-key").read_text("utf-8").strip())
            database = Database(f"sqlite:///{stack.data_dir / 'rootstock.db'}")
            for shape in progress.track(shapes(given.history + given.jobs, seed=4), description="jobs"):
                rows.append(held(client, database, shape))
        finally:
            stack.stop()
    told = page(rows, about := machine())
    print(told)
    if given.save:
        RESULTS.write_text(
            json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n", "utf-8"
        )
        PAGE.write_text(PAGE.read_text("utf-8").split(MARK)[0] + told, encoding="utf-8")
    return 0


def machine() -> dict[str, Any]:
    """What it ran on."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"when": when, "commit": commit, "cpu": cpu, "cores": len(os.sched_getaffinity(0))}


if __name__ == "__main__":
    raise SystemExit(main())
