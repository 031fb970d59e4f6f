"""Mends what needs no thought: exact duplicates and leaks go, damaged encoding is put right; and tells it as a diff.

Two passes: one decides, one writes. Knows no files, only lines.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from rootstock.datasets.parse import Fault, parse_object
from rootstock.quality.reporting import Line, read
from rootstock.quality.texts import mended
from rootstock.quality.twins import Twins, near_leaks

Role = Literal["training", "validation"]


@dataclass(slots=True)
class Changed:
    """Lines of one file: kept as they are or mended, taken out, mended."""

    kept: int = 0
    dropped: int = 0
    mended: int = 0


@dataclass(slots=True)
class Mended:
    """What to change: lines to take out and lines to mend, by file."""

    drop: dict[str, set[int]] = field(default_factory=dict)
    damaged: dict[str, set[int]] = field(default_factory=dict)

    def write(
        self,
        role: str,
        lines: Iterable[Line],
        clean: Callable[[bytes], object],
        diff: Callable[[bytes], object],
        name: str,
    ) -> Changed:
        """Write the cleaned lines to `clean` and a unified diff without context to `diff`."""
        changed = Changed()
        diff(f"--- {name}\n+++ {name}\n".encode())
        for number, line in enumerate(lines, 1):
            if line is None:
                changed.dropped += 1
                continue
            text = line.rstrip(b"\r\n")
            at = changed.kept
            if number in self.drop.get(role, ()):
                diff(b"@@ -%d,1 +%d,0 @@\n-%b\n" % (number, at, text))
                changed.dropped += 1
                continue
            better = _mended(text) if number in self.damaged.get(role, ()) else text
            if better != text:
                diff(b"@@ -%d,1 +%d,1 @@\n-%b\n+%b\n" % (number, at + 1, text, better))
                changed.mended += 1
            clean(better + b"\n")
            changed.kept += 1
        return changed


def mend(training: Callable[[], Iterable[Line]], validation: Callable[[], Iterable[Line]] | None) -> Mended:
    """Decide what to change. Of copies the first stays; a leak leaves the validation file."""
    rows = [row for row in read(training()) if row.fault is None]
    held = [row for row in read(validation()) if row.fault is None] if validation else []
    twins = Twins(rows, held)
    lines = [row.line for row in twins.rows]
    leaked = {*twins.leaked, *near_leaks(twins)}
    return Mended(
        drop={
            "training": {lines[i] for copies in twins.copies.values() for i in copies},
            "validation": {lines[i] for i in leaked},
        },
        damaged={
            "training": {row.line for row in rows if row.damaged},
            "validation": {row.line for row in held if row.damaged},
        },
    )


def _mended(line: bytes) -> bytes:
    try:
        found = parse_object(line)
    except Fault:
        return line
    better = _mend_value(found)
    return line if better == found else json.dumps(better, ensure_ascii=False).encode()


def _mend_value(value: Any) -> Any:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [_mend_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _mend_value(item) for key, item in value.items()}
    return value
