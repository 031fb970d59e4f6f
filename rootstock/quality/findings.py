"""What a data report consists of: findings with their lines, and a summary. Knows nothing about how they are found."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from rootstock.quality.kinds import SEVERITIES, Kind, Severity

File = Literal["training", "validation"]

MAX_LINES = 1000
"""Line numbers that one finding names at most; its message and the summary count all of them."""

MAX_FINDINGS = 100
"""Findings of one kind that are told apart; the lines of all further ones are put into one."""

EXIT_CODES = {Severity.INFO: 0, Severity.WARNING: 1, Severity.BLOCKING: 2, Severity.UNUSABLE: 3}
"""What `rootstock data check` ends with: that of the gravest finding, 0 without one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. `lines` count from 1; what concerns the whole file names none."""

    kind: Kind
    severity: Severity
    file: File
    lines: tuple[int, ...]
    message: str
    cure: str

    def as_dict(self) -> dict[str, Any]:
        """The documented form."""
        return {
            "kind": str(self.kind),
            "severity": str(self.severity),
            "file": self.file,
            "lines": list(self.lines),
            "message": self.message,
            "cure": self.cure,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, gravest first, and the numbers of the data."""

    findings: tuple[Finding, ...]
    summary: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The documented form: `{"findings": [...], "summary": {...}}`."""
        return {"findings": [finding.as_dict() for finding in self.findings], "summary": self.summary}

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 blocking, 3 unusable."""
        return max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)


class Findings:
    """Collects findings in bounded memory; see `MAX_LINES` and `MAX_FINDINGS`."""

    def __init__(self, blocking: Collection[Kind] = ()) -> None:
        self._blocking = frozenset(blocking)
        self._kept: list[Finding] = []
        self._count: Counter[tuple[Kind, File]] = Counter()
        self._rest: dict[tuple[Kind, File], list[int]] = {}
        self._cures: dict[Kind, str] = {}
        self._lines: Counter[str] = Counter()

    def add(
        self, kind: Kind, file: File, lines: Iterable[int], message: str, cure: str, *, usual: Severity | None = None
    ) -> None:
        """Keep a finding; `message` and `cure` are one sentence each. `usual`: how grave it is, if not as its kind."""
        found = sorted(set(lines))
        self._lines[kind] += len(found)
        self._cures[kind] = cure
        self._count[kind, file] += 1
        if self._count[kind, file] > MAX_FINDINGS:
            rest = self._rest.setdefault((kind, file), [])
            rest += found[: MAX_LINES - len(rest)]
            return
        grave = self.severity(kind, usual)
        self._kept.append(Finding(kind, grave, file, tuple(found[:MAX_LINES]), message, cure))

    def severity(self, kind: Kind, usual: Severity | None = None) -> Severity:
        """How grave the kind is here: what a project blocks is blocking, unless it is graver anyway."""
        usual = usual or SEVERITIES[kind]
        return Severity.BLOCKING if kind in self._blocking and EXIT_CODES[usual] < 2 else usual

    def finish(self) -> tuple[tuple[Finding, ...], dict[str, int]]:
        """The findings, gravest first, and how many lines each kind was found on."""
        for (kind, file), lines in self._rest.items():
            more = self._count[kind, file] - MAX_FINDINGS
            message = f"{more:,} further findings of this kind."
            self._kept.append(
                Finding(kind, self.severity(kind), file, tuple(sorted(set(lines))), message, self._cures[kind])
            )
        order = list(Kind)
        kept = sorted(self._kept, key=lambda f: (-EXIT_CODES[f.severity], order.index(f.kind), f.file, f.lines[:1]))
        return tuple(kept), {str(kind): self._lines[kind] for kind in order if self._lines[kind]}


def counted(number: int, noun: str) -> str:
    """`1 line`, `2,000 lines`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
