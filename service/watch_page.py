"""A watch as a page of HTML: its distances, its alarms, the calls behind them. Pure; what it shows is the watch."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rootstock.drift.profile import KINDS
from service import pages
from service.wire_watches import Alarm, Watch

MOST_ALARMS = 20


def page(watch: Watch, points: Sequence[dict[str, Any]], alarms: Sequence[Alarm]) -> str:
    """The whole document."""
    facts = {
        "Status": watch.status + (f": {watch.reason}" if watch.reason else ""),
        "Compared with": f"{watch.file} ({watch.examples or 0} examples)",
        "Calls": f"{watch.calls} looked at, {watch.dropped} dropped",
        "Silent": ", ".join(watch.silent) or "no kind",
    }
    sections = {
        "Watch": pages.facts(facts),
        "Distances": plot(points),
        "Alarms": "".join(map(_alarm, alarms)) or pages.said("None."),
    }
    return pages.document(f"Drift of {watch.alias or watch.model}", sections)


def plot(points: Sequence[dict[str, Any]]) -> str:
    """The distances of each kind as lines over the calls; a sentence where there is none yet."""
    if not points:
        return pages.said("Nothing yet: a point is drawn for every 200 calls.")
    kinds = {kind: [(p["calls"], p[kind]) for p in points if kind in p] for kind in KINDS}
    return pages.lines(kinds, across="call", label="Distances over time", reach=1.0)


def _alarm(alarm: Alarm) -> str:
    when = datetime.fromtimestamp(alarm.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    told = pages.heading(alarm.kind, f"{when}, {alarm.id}") + pages.said(alarm.message)
    if alarm.cluster is None:
        return told + pages.said("This watch stores no samples.")
    rows = [(row.prompt, row.answer) for row in alarm.cluster.rows]
    terms = ", ".join(alarm.cluster.terms) or "nothing in common"
    told += pages.said(f"{alarm.cluster.alike} of {len(rows)} rows are alike: {terms}")
    return told + (pages.table(("Prompt", "Answer"), rows) if rows else "")
