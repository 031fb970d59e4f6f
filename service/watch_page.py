"""A watch as a page of HTML: a plot of its distances, its alarms, the calls behind them. No script inside.

Pure functions of what the API shows; every text in it comes from clients, so every text is escaped.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from service.wire_watches import Alarm, Watch

MOST_ALARMS = 20

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Of the content: styles of its own only."""

WIDTH, HEIGHT, LEFT, TOP = 720, 240, 44, 12
COLOURS = {"prompt": "#1f6feb", "length": "#d97706", "label": "#7c3aed", "schema": "#dc2626", "refusal": "#059669"}

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;"
    "vertical-align:top}td{white-space:pre-wrap;overflow-wrap:anywhere}h2{margin-top:2rem}small{color:#666}"
)


def page(watch: Watch, points: Sequence[dict[str, Any]], alarms: Sequence[Alarm]) -> str:
    """The whole document."""
    facts = {
        "Status": watch.status + (f": {watch.reason}" if watch.reason else ""),
        "Compared with": f"{watch.file} ({watch.examples or 0} examples)",
        "Calls": f"{watch.calls} looked at, {watch.dropped} dropped",
        "Silent": ", ".join(watch.silent) or "no kind",
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    title = escape(f"Drift of {watch.alias or watch.model}")
    told = "".join(_alarm(alarm) for alarm in alarms) or "<p>None.</p>"
    head = f'<head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
    return (
        f'<!doctype html><html lang="en">{head}'
        f"<body><h1>{title}</h1><table>{rows}</table><h2>Distances</h2>{plot(points)}<h2>Alarms</h2>{told}</body></html>"
    )


def plot(points: Sequence[dict[str, Any]]) -> str:
    """The distances of each kind as lines over the calls, from 0 to 1; a sentence where there is none yet."""
    if not points:
        return "<p>Nothing yet: a point is drawn for every 200 calls.</p>"
    kinds = [kind for kind in COLOURS if kind in points[-1]]
    first, last = points[0]["calls"], points[-1]["calls"]

    def place(point: dict[str, Any], kind: str) -> str:
        x = LEFT + (WIDTH - LEFT) * (point["calls"] - first) / max(1, last - first)
        return f"{x:.1f},{TOP + (HEIGHT - TOP) * (1 - min(1.0, max(0.0, point.get(kind, 0.0)))):.1f}"

    parts = []
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = TOP + (HEIGHT - TOP) * (1 - level)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="#e5e5e5"/><text x="4" y="{y + 4:.1f}">{level}</text>')
    for number, kind in enumerate(kinds):
        line = " ".join(place(point, kind) for point in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[kind]}" stroke-width="2"/>')
        x = LEFT + 100 * number
        parts.append(f'<text x="{x}" y="{HEIGHT + 36}" fill="{COLOURS[kind]}">{escape(kind)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT + 18}">call {first} to {last}</text>')
    size = f'viewBox="0 0 {WIDTH} {HEIGHT + 44}" font-size="12" font-family="sans-serif"'
    return f'<svg role="img" aria-label="Distances over time" {size}>{"".join(parts)}</svg>'


def _alarm(alarm: Alarm) -> str:
    when = datetime.fromtimestamp(alarm.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = f"<h3>{escape(alarm.kind)} <small>{when}, {escape(alarm.id)}</small></h3><p>{escape(alarm.message)}</p>"
    if alarm.cluster is None:
        return head + "<p><small>This watch stores no samples.</small></p>"
    rows = "".join(f"<tr><td>{escape(row.prompt)}</td><td>{escape(row.answer)}</td></tr>" for row in alarm.cluster.rows)
    terms = escape(", ".join(alarm.cluster.terms) or "nothing in common")
    table = f"<table><tr><th>Prompt</th><th>Answer</th></tr>{rows}</table>" if rows else ""
    return f"{head}<p>{alarm.cluster.alike} of {len(alarm.cluster.rows)} rows are alike: {terms}</p>{table}"
