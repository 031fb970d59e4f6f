"""A job's report as a page of HTML. Pure; what it shows is the report."""

from typing import Any

from service import pages
from service.wire_release import ShownSuite
from service.wire_reports import JobReport


def page(report: JobReport) -> str:
    """The whole document."""
    sections = {"Job": _job(report), "Training": _training(report), "Release": _release(report)}
    if report.confusion is not None:
        labels = report.confusion.labels
        rows = dict(zip(labels, report.confusion.counts, strict=True))
        sections["Confusion"] = pages.counts([*labels, "(none of them)"], rows, corner="right \\ answered")
    if report.worst:
        head = ("Line", "Question", "Right answer", "Before", "After", "Score before", "after")
        sections["Worst examples"] = pages.table(
            head,
            [
                (
                    s.line,
                    s.question,
                    s.right,
                    s.before or "",
                    s.after or "",
                    _score(s.score_before),
                    _score(s.score_after),
                )
                for s in report.worst
            ],
        )
    if report.estimate is not None:
        sections["Estimate against truth"] = _estimate(report)
    if report.data is not None:
        sections["Data"] = _data(report.data)
    return pages.document(f"Fine-tuning job {report.job_id}", sections)


def _job(report: JobReport) -> str:
    return pages.facts(
        {
            "Status": report.status,
            "Base model": report.base,
            "Method": report.method,
            "Tuned model": report.fine_tuned_model or "none yet",
            "Trained tokens": report.trained_tokens if report.trained_tokens is not None else "not known yet",
        }
    )


def _training(report: JobReport) -> str:
    told = {name.replace("_", " "): getattr(report.curves, name) for name in type(report.curves).model_fields}
    series = {name: [(point.step, point.value) for point in points] for name, points in told.items()}
    rewards = {"reward": series.pop("reward")}
    drawn = pages.lines(series, across="step", label="Losses over the steps")
    return drawn + (pages.lines(rewards, across="step", label="Reward over the steps") if rewards["reward"] else "")


def _release(report: JobReport) -> str:
    release = report.release
    if release is None:
        return pages.said("No verdict: nothing was measured, or it is not yet.")
    parts = [pages.said(f"{release.verdict}. {release.summary or ''}"), *map(pages.said, release.reasons)]
    if release.scores:
        rows = {name.replace("_", " "): (one.low, one.mean, one.high) for name, one in release.scores.items()}
        if release.gain is not None:
            rows["gain of the tune"] = (release.gain.low, release.gain.mean, release.gain.high)
        parts.append(pages.intervals(rows, label=f"{release.metric} on {release.examples} held-out examples"))
    if release.suites:
        head = ("General suite", "Questions", "Before", "After", "Change", "May lose", "Forgotten")
        rows_ = [
            (
                s.name,
                s.questions,
                f"{s.before.mean:.2f}",
                _mean(s.after),
                _change(s),
                f"{s.limit:g}",
                "yes" if s.forgotten else "no",
            )
            for s in release.suites
        ]
        parts.append(pages.table(head, rows_))
    return "".join(parts)


def _estimate(report: JobReport) -> str:
    assert report.estimate is not None
    rows = []
    for name in type(report.estimate).model_fields:
        one = getattr(report.estimate, name)
        bars = one.estimated
        told = "unknown" if bars is None else f"{bars.mean:,.4g} ({bars.low:,.4g} to {bars.high:,.4g})"
        rows.append((name.replace("_", " "), told, "not known yet" if one.actual is None else f"{one.actual:,.4g}"))
    return pages.table(("", "Estimated", "Actual"), rows)


def _data(data: dict[str, Any]) -> str:
    findings = data.get("findings") or []
    if not findings:
        return pages.said("No findings.")
    rows = [
        (f["severity"], f["kind"], ", ".join(map(str, f["lines"][:10])), f["message"], f["cure"]) for f in findings[:50]
    ]
    return pages.table(("Severity", "Kind", "Lines", "Finding", "Cure"), rows)


def _mean(interval: Any) -> str:
    return "not asked" if interval is None else f"{interval.mean:.2f}"


def _change(suite: ShownSuite) -> str:
    change = suite.change
    return "" if change is None else f"{change.mean:+.2f} ({change.low:+.2f} to {change.high:+.2f})"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
