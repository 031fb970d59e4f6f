"""Recall and false alarms of the data report on sets with known faults. Run as a module, it prints all."""
# ruff: noqa: E501 (wordings)

import copy
import json
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from rootstock.quality import report
from rootstock.quality.kinds import Kind
from tests.data_faults import bases, faults
from tests.data_faults.faults import CONTEXT, Plant, Planted

LINES, FAULTS, HELD_OUT = 1000, 50, 100


@dataclass(frozen=True)
class Score:
    """Of one set: what was planted, the share that was found, and per kind the share of lines that were named wrongly."""

    planted: str
    recall: float
    false_alarms: dict[str, float]
    missed: list[tuple[str, int]]
    wrong: dict[str, list[tuple[str, int]]]


def lines_of(examples: Iterable[object], rng: random.Random) -> list[bytes]:
    """The examples as lines, in the ways that writers of JSON differ."""
    found = []
    for example in examples:
        if isinstance(example, bytes):
            found.append(example)
            continue
        spaced = (", ", ": ") if rng.random() < 0.7 else (",", ":")
        line = json.dumps(example, ensure_ascii=rng.random() < 0.3, separators=spaced)
        found.append(line.encode() + rng.choice([b"", b" ", b"\r"]) + b"\n")
    return found


def compose(
    base: bases.Base, plant: Plant | None, seed: int, language: str = "en", lines: int = LINES, count: int = FAULTS
) -> Planted:
    """A clean set and its held-out part, with `count` faults of one kind."""
    rng = random.Random(f"{seed}{plant}".split(" at 0x")[0])
    examples = base(rng, lines + HELD_OUT, language)
    planted = Planted(examples[:lines], examples[lines:])
    if plant is not None:
        plant(planted, rng, count)
    return planted


def score(planted: Planted, name: str, seed: int = 0) -> Score:
    """Hold the report on the set against what was planted."""
    rng = random.Random(seed)
    kept = copy.deepcopy(planted)
    found = report(lines_of(kept.training, rng), lines_of(kept.validation, rng), context=CONTEXT)
    told: dict[str, set[tuple[str, int]]] = {kind: set() for kind in Kind}
    for finding in found.findings:
        told[finding.kind].update((finding.file, line) for line in finding.lines)
    total = len(planted.training) + len(planted.validation)
    missed = [place for kind, places in planted.must.items() for place in places - told[kind]]
    wrong = {
        str(kind): sorted(places - planted.must.get(kind, set()) - planted.may.get(kind, set()))
        for kind, places in told.items()
    }
    count = sum(map(len, planted.must.values()))
    alarms = {kind: len(places) / total for kind, places in wrong.items() if places}
    return Score(name, 1 - len(missed) / max(1, count), alarms, missed, wrong)


def fits(plant: Plant, base: str) -> bool:
    """Whether the fault can be planted into this sort of set."""
    return base not in faults.UNFIT.get(plant.__name__, set())


def main(seeds: int = 2, verbose: bool = False) -> None:
    """Print every set's recall and false alarms; a mark stands where a bar is missed."""
    for sort, sets in (("tuned", bases.TUNED), ("held back", bases.HELD_BACK)):
        for name, base in sets.items():
            for plant in (None, *faults.LINE_FAULTS):
                if plant is not None and not fits(plant, name):
                    continue
                for seed in range(seeds):
                    for language in ("en", "de") if seed == 0 and name in ("classification", "extraction") else ("en",):
                        planted = compose(base, plant, seed, language)
                        got = score(planted, plant.__name__ if plant else "clean", seed)
                        bad = got.recall < 0.95 or max(got.false_alarms.values(), default=0) > 0.02
                        print(
                            f"{'!!' if bad else '  '} {sort:9} {name:14} {language} {got.planted:26} recall {got.recall:.2f} false {got.false_alarms}",
                            flush=True,
                        )
                        if verbose and bad:
                            for file, line in got.missed[:4]:
                                print("      missed", line, str(getattr(planted, file)[line - 1])[:600])
                            for kind, places in got.wrong.items():
                                for file, line in places[:3]:
                                    print("      wrong", kind, line, str(getattr(planted, file)[line - 1])[:600])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2, "-v" in sys.argv)
