"""An evidence pack as Markdown: card, dataset sheet, computing, lineage, limits. Pure; what it shows is the pack."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from service.wire_evidence import Evidence, EvidenceFile


def markdown(pack: Evidence) -> str:
    """The whole page."""
    return "\n".join(
        [
            f"# Evidence for `{pack.model}`",
            "",
            f"Made {_day(pack.made_at)} from job `{pack.lineage.job_id}` of {_day(pack.job_created_at)}.",
            *_section("Model card", _card(pack)),
            *_section("Measured", _measured(pack)),
            *_section("Dataset sheet", _data(pack)),
            *_section("Computing", _compute(pack)),
            *_section("Lineage", _lineage(pack)),
            *_section("Limits", [f"- {_plain(limit)}" for limit in pack.limits]),
            *_section("Where the numbers come from", _sources(pack)),
            "",
        ]
    )


def _section(name: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {name}", "", *lines]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    top = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return top + ["| " + " | ".join(_plain(value) for value in row) + " |" for row in rows]


def _plain(value: Any) -> str:
    """A text that cannot become markup or end its cell."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def _card(pack: Evidence) -> list[str]:
    recipe = {name: value for name, value in pack.recipe.items() if name not in ("asked", "sources")}
    rows = [
        ("base model", pack.lineage.base),
        ("method", pack.method),
        ("kind", pack.lineage.kind),
        ("seed", pack.seed),
    ]
    rows += [(name, json.dumps(value)) for name, value in sorted(recipe.items()) if name not in ("method", "seed")]
    return _table(("", ""), rows)


def _measured(pack: Evidence) -> list[str]:
    release = pack.release
    if release is None or not release.scores:
        return ["Nothing was measured."]
    rows = [(name, f"{one.mean:.3f}", f"{one.low:.3f} to {one.high:.3f}") for name, one in release.scores.items()]
    if release.gain is not None:
        gain = release.gain
        rows.append((f"gain over {release.compared_with}", f"{gain.mean:+.3f}", f"{gain.low:+.3f} to {gain.high:+.3f}"))
    lines = [f"Verdict: **{release.verdict}**. `{release.metric}` on {release.examples} held-out examples:", ""]
    lines += _table(("who", "mean", "95 % interval"), rows)
    suites = [
        (
            one.name,
            one.questions,
            f"{one.before.mean:.3f}",
            "not asked" if one.after is None else f"{one.after.mean:.3f}",
        )
        for one in release.suites or []
    ]
    return lines + (
        ["", "General suites:", "", *_table(("suite", "questions", "before", "after"), suites)] if suites else []
    )


def _data(pack: Evidence) -> list[str]:
    named = [("training", pack.lineage.training_file), ("validation", pack.lineage.validation_file)]
    lines = _table(
        ("role", "file", "name", "examples", "bytes", "SHA-256", "deleted since"),
        [(role, *_of_file(one)) for role, one in named if one is not None],
    )
    findings = (pack.data or {}).get("findings")
    if findings is None:
        return [*lines, "", "There is no data report."]
    rows = [(one["severity"], one["kind"], len(one["lines"]), one["message"]) for one in findings[:50]]
    return [*lines, "", *(_table(("severity", "finding", "lines", "what"), rows) if rows else ["No findings."])]


def _of_file(one: EvidenceFile) -> tuple[Any, ...]:
    examples = "unknown" if one.examples is None else one.examples
    return one.id, one.filename, examples, one.bytes, one.sha256, "yes" if one.deleted else "no"


def _compute(pack: Evidence) -> list[str]:
    one = pack.compute
    told = {
        "trained tokens": one.trained_tokens,
        "weights of the base": one.base_weights,
        "operations": one.operations and f"{one.operations:.3e}",
        "operations of the base's training": one.base_training_operations and f"{one.base_training_operations:.3e}",
        "ratio": one.ratio and f"{one.ratio:.3e}",
        "over one third (EU AI Act guidelines)": one.over_threshold,
    }
    return _table(("", ""), [(name, "unknown" if value is None else value) for name, value in told.items()])


def _lineage(pack: Evidence) -> list[str]:
    one = pack.lineage
    told = {
        "job": one.job_id,
        "adapter": one.adapter_id,
        "base, SHA-256": one.base_sha256,
        "chat template, SHA-256": one.template_sha256,
        "tuned further from": one.start_model or "none",
    }
    return _table(("", ""), [*told.items(), *((f"{name}, SHA-256", digest) for name, digest in one.files.items())])


def _sources(pack: Evidence) -> list[str]:
    return _table(("numbers", "from", "again"), [(one.numbers, one.source, one.again) for one in pack.sources])
