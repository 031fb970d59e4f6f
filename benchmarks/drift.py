"""How quiet and how quick the drift watch is: `python -m benchmarks.drift --save` writes the table of docs/drift.md.

For each sort of text and size of training set: 10,000 calls like the set, which may give no alarm, then calls of which
a fifth are of a new topic, counted until the alarm. The sorts are those of the tests, and a hard one: paragraphs of the
documentation of Python's standard library on networks, then one in five of another module. Knows no service, no model.
"""

import argparse
import ast
import random
import re
import statistics
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rootstock.drift.detect import QUIET, State, advance, threshold
from rootstock.drift.profile import Profile
from rootstock.drift.sample import Sample
from tests.rootstock.drift.traffic import SORTS, drawn

PAGE = Path(__file__).resolve().parent.parent / "docs" / "drift.md"
BEGIN, END = "<!-- figures: written by `python -m benchmarks.drift --save` -->", "<!-- end of figures -->"
SIZES = (200, 1000)
NETWORKS = (
    "asyncio/*.py",
    "http/*.py",
    "urllib/*.py",
    "email/**/*.py",
    "s[os][cl]*.py",
    "logging/*.py",
    "unittest/*.py",
)
MODULES = {"turtle": ("turtle.py",), "decimal": ("_pydecimal.py", "statistics.py"), "tkinter": ("tkinter/**/*.py",)}
LEAST_CHARS = 30
WARM_CALLS = 500
LATEST = 500


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `found` has the calls until the alarm for each seed, `None` where there was none."""

    sort: str
    examples: int
    calls: int
    alarms: int
    highest: float
    found: list[int | None]

    def row(self) -> str:
        """As Markdown."""
        seen = [calls for calls in self.found if calls is not None]
        late = f"{statistics.median(seen):.0f}, at most {max(seen)}" if seen else "-"
        return (
            f"| {self.sort} | {self.examples} | {self.alarms} in {self.calls:,} | {self.highest:.0%} | {late} | "
            f"{len(seen)} of {len(self.found)} |"
        )


@dataclass(frozen=True, slots=True)
class Texts:
    """A sort of text: training sets and calls of it."""

    name: str
    topic: str | None = None  # of the standard library

    def training(self, seed: int, count: int) -> list[Sample]:
        """The calls of a training set; no paragraph of it comes again."""
        return drawn(self.name, 100 * seed + 1, count) if self.topic is None else _shuffled(seed)[:count]

    def calls(self, seed: int, trained: int, count: int, new: float = 0.0) -> list[Sample]:
        """Calls, a share `new` of them of a new topic."""
        if self.topic is None:
            return drawn(self.name, 100 * seed + (3 if new else 2), count, new)
        draw, usual, other = random.Random(seed), _shuffled(seed)[trained:], _paragraphs(MODULES[self.topic])
        return [draw.choice(other if draw.random() < new else usual) for _ in range(count)]


def measure(texts: Texts, examples: int, calls: int, seeds: int) -> Figure:
    """Both halves of the promise, each seed with a training set of its own; the quiet half at length for the first."""
    alarms, highest, found = 0, 0.0, list[int | None]()
    for seed in range(seeds):
        profile = Profile.of([[call] for call in texts.training(seed, examples)])
        state = State.new(profile.events)
        for call in texts.calls(seed, examples, calls if seed == 0 else WARM_CALLS):
            alarms += len(advance(state, profile.events, profile.marks(call), 0.0))
            highest = max(highest, float(state.scores.max()) / threshold(len(profile.events)))
        found.append(_until(profile, state, texts.calls(seed, examples, LATEST, new=0.2)))
    name = texts.name if texts.topic is None else f"{texts.name}: {texts.topic}"
    return Figure(name, examples, calls + WARM_CALLS * (seeds - 1), alarms, highest, found)


def _until(profile: Profile, state: State, calls: list[Sample]) -> int | None:
    for number, call in enumerate(calls, 1):
        if any(shift.kind == "prompt" for shift in advance(state, profile.events, profile.marks(call), 0.0)):
            return number
    return None


def _shuffled(seed: int) -> list[Sample]:
    found = _paragraphs(NETWORKS)
    random.Random(seed).shuffle(found)
    return found


def _paragraphs(patterns: tuple[str, ...]) -> list[Sample]:
    return [Sample.of(text, "", "") for text in sorted({text for pattern in patterns for text in _documented(pattern)})]


def _documented(pattern: str) -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="ignore"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                found = re.split(r"\n\s*\n", ast.get_docstring(node) or "")
                yield from (text for text in found if len(text) > LEAST_CHARS)


def main() -> None:
    """Measure, print, and with `--save` write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=QUIET, help="quiet calls (10,000)")
    options.add_argument("--seeds", type=int, default=5, help="training sets of each size (5)")
    options.add_argument("--save", action="store_true", help="write the table of docs/drift.md")
    given = options.parse_args()
    lines = [
        "| Text | Examples | False alarms | Highest score, of the line | Calls to the alarm, median | Found in 500 |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for examples in SIZES:
        for texts in (*map(Texts, SORTS), *(Texts("Python's documentation", topic) for topic in MODULES)):
            lines.append(measure(texts, examples, given.calls, given.seeds).row())
            print(lines[-1], flush=True)
    if given.save:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        table = "\n".join([BEGIN, "", *lines, "", END])
        PAGE.write_text(before + table + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
