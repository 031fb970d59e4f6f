"""Measures what people say of fine-tuning on the small base, and what our release gate does, and writes the page of it.

`make evidence`. Each part is saved when it is done; `--only` measures some anew and leaves the others as they are.
"""

import argparse
import fcntl
import json
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.evidence import page
from benchmarks.evidence.ground import Clock, Ground
from benchmarks.evidence.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence.json"
PAGE = ROOT / "docs" / "evidence.md"
BASE = ROOT / "examples" / "base" / "rootstock-tiny"
EPILOG = """examples:
  python -m benchmarks.evidence --save               everything, about an hour of CPU time
  python -m benchmarks.evidence --save --only gate   one part anew
  python -m benchmarks.evidence --quick              everything very small, to see that it works
"""


def main() -> None:
    """Command line entry point."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=form)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be given several times")
    parser.add_argument("--quick", action="store_true", help="small sizes: the numbers mean nothing")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} and {PAGE.name}")
    parser.add_argument("--page", action="store_true", help="only write the page from the results there are")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    asked = parser.parse_args()
    if asked.quick and asked.save:
        parser.error("--quick measures nothing that should be saved")
    if asked.page:
        PAGE.write_text(page.write(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    place = where(asked.threads)  # before anything is saved: the commit is that of the code that measures
    for name in asked.only or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            numbers = PARTS[name](Ground(Path(folder), str(BASE), asked.threads), asked.quick)
        found = {"where": place, "cpu_seconds": clock.seconds, "numbers": numbers}
        print(page.part(name, found), flush=True)
        if asked.save:
            save(name, found)


def where(threads: int) -> dict[str, Any]:
    """The machine, the versions and the commit that a part was measured with."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git.stdout.strip() or None,
        "cpu": _cpu(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "base": BASE.name,
    }


def save(name: str, found: dict[str, Any]) -> None:
    """Put the part into the results and write the page anew; another process may do the same at the same time."""
    RESULTS.touch()
    with RESULTS.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        results = json.loads(file.read() or "{}") | {name: found}
        ordered = {part: results[part] for part in PARTS if part in results}
        file.seek(0)
        file.truncate()
        file.write(json.dumps(ordered, indent=1) + "\n")
        file.flush()
        PAGE.write_text(page.write(ordered), encoding="utf-8")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
