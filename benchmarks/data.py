"""How fast data is checked: `python -m benchmarks.data --save` writes results/data.json.

The format check (what an upload goes through) in MB/s of one core, the whole report of 100,000 lines in seconds on two
processes. The lines are those of the tests' clean sets, with prompts of about 500 characters. Knows no service.
"""

import argparse
import json
import os
import platform
import random
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rootstock.datasets import Checker
from rootstock.quality import report
from tests.data_faults import bases

RESULT = Path(__file__).resolve().parent / "results" / "data.json"
LINES = 100_000
MEGABYTE = 1_000_000
CHECK_TARGET, REPORT_TARGET = 150, 60  # MB/s of one core; seconds on two cores
PROCESSES = 2
REPEATS = 3


def lines(count: int) -> list[bytes]:
    """Different lines of four sorts, each with some sentences of its own."""
    rng = random.Random(1)
    words = [w for sort in (bases.THINGS, bases.COLOURS) for listed in sort.values() for w in listed]
    words += " ".join(text for cases in bases.CASES["en"].values() for found in cases for text in [found]).split()
    made = []
    for number in range(count):
        story = " ".join(rng.choice(words) for _ in range(60)).replace("{", "").replace("}", "")
        messages = [
            {"role": "system", "content": "You are the friendly support of a shop."},
            {"role": "user", "content": f"Case {number}: {story}. What shall I do?"},
            {"role": "assistant", "content": f"Thank you, please {' '.join(rng.choice(words) for _ in range(25))}."},
        ]
        made.append(json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n")
    return made


def check_speed(content: bytes) -> float:
    """MB/s of the format check, best of some."""
    best = 0.0
    for _ in range(REPEATS):
        start = time.process_time()
        checker = Checker(1 << 20)
        for at in range(0, len(content), 1 << 20):
            checker.feed(content[at : at + (1 << 20)])
        found = checker.finish()
        assert not found.faults_total
        best = max(best, len(content) / MEGABYTE / (time.process_time() - start))
    return best


def main() -> None:
    """Measure, print, and save where that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--lines", type=int, default=LINES)
    asked = parser.parse_args()
    made = lines(asked.lines)
    content = b"".join(made)
    speed = check_speed(content)
    start = time.perf_counter()
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        found = report(made, pool=pool)
    seconds = time.perf_counter() - start
    figures = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "lines": asked.lines,
        "megabytes": round(len(content) / MEGABYTE, 1),
        "format_check_mb_per_second": round(speed, 1),
        "format_check_target": CHECK_TARGET,
        "report_seconds": round(seconds, 1),
        "report_target": REPORT_TARGET,
        "report_processes": PROCESSES,
        "peak_mb_of_the_main_process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "findings": len(found.findings),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if asked.save:
        RESULT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
