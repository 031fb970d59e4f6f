"""Pages of HTML without a script: tables and plots as inline SVG. Knows what a plot is, not what it shows.

Every text comes from clients or models, so every text is escaped; whoever calls these gives plain text.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Of the content: styles of its own only."""

WIDTH, HEIGHT, LEFT, TOP = 720, 240, 56, 12
COLOURS = ("#1f6feb", "#d97706", "#7c3aed", "#dc2626", "#059669")

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;"
    "vertical-align:top}td{white-space:pre-wrap;overflow-wrap:anywhere}h2{margin-top:2rem}small{color:#666}"
)

Points = Sequence[tuple[float, float]]


def document(title: str, sections: Mapping[str, str]) -> str:
    """The whole page; `sections` are headings and what is under them, HTML already."""
    body = "".join(f"<h2>{escape(name)}</h2>{content}" for name, content in sections.items())
    head = f'<head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
    return f'<!doctype html><html lang="en">{head}<body><h1>{escape(title)}</h1>{body}</body></html>'


def heading(text: str, beside: str) -> str:
    """What begins a part of a section, with something small beside it."""
    return f"<h3>{escape(text)} <small>{escape(beside)}</small></h3>"


def said(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def facts(values: Mapping[str, Any]) -> str:
    """Names and values, a row each."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in values.items())
    return f"<table>{rows}</table>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under headings."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells = ("".join(f"<td>{escape(str(value))}</td>" for value in row) for row in rows)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def lines(series: Mapping[str, Points], *, across: str, label: str, reach: float = 0.0) -> str:
    """Lines over a common axis from the least to the most of both; a sentence where there is nothing to draw.

    The upright axis goes from 0, or less where a value is, to `reach` at least.
    """
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return said("Nothing yet.")
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    left, right, least, most = min(xs), max(xs), min(0.0, *ys), max(reach, *ys)

    def place(x: float, y: float) -> str:
        across_ = LEFT + (WIDTH - LEFT) * (x - left) / max(1e-9, right - left)
        return f"{across_:.1f},{TOP + (HEIGHT - TOP) * (1 - (y - least) / max(1e-9, most - least)):.1f}"

    parts = []
    for step in range(5):
        y = TOP + (HEIGHT - TOP) * (1 - step / 4)
        value = least + (most - least) * step / 4
        parts.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH}" stroke="#e5e5e5"/><text x="4" y="{y + 4:.1f}">{value:.3g}</text>'
        )
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(place(x, y) for x, y in points)
        mark = "" if len(points) > 1 else _dot(place(*points[0]), colour)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{mark}')
        beneath = LEFT + number * min(160, (WIDTH - LEFT) // len(drawn))
        parts.append(f'<text x="{beneath}" y="{HEIGHT + 36}" fill="{colour}">{escape(name)}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT + 18}">{escape(across)} {left:.12g} to {right:.12g}</text>')
    return _svg(parts, HEIGHT + 44, label)


def intervals(rows: Mapping[str, tuple[float, float, float]], *, label: str) -> str:
    """A dot with its interval for each name, all between 0 and 1 or as far as they reach."""
    if not rows:
        return said("Nothing was measured.")
    least, most = min(0.0, *(low for low, _, _ in rows.values())), max(1.0, *(high for *_, high in rows.values()))
    begin = 180

    def place(value: float) -> float:
        return begin + (WIDTH - begin - 20) * (value - least) / (most - least)

    parts, bottom = [], 28 * len(rows)
    for step in range(5):
        value = least + (most - least) * step / 4
        parts.append(f'<path d="M{place(value):.1f} 0V{bottom}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{place(value) - 8:.1f}" y="{bottom + 16}">{value:.2f}</text>')
    for number, (name, (low, mean, high)) in enumerate(rows.items()):
        y, colour = 28 * number + 14, COLOURS[0]
        parts.append(f'<text x="4" y="{y + 4}">{escape(name)}</text>')
        parts.append(f'<path d="M{place(low):.1f} {y}H{place(high):.1f}" stroke="{colour}" stroke-width="2"/>')
        parts.append(_dot(f"{place(mean):.1f},{y}", colour))
    return _svg(parts, bottom + 24, label)


def counts(labels: Sequence[str], rows: Mapping[str, Sequence[int]], *, corner: str) -> str:
    """A table of counts, the larger the darker."""
    most = max((value for row in rows.values() for value in row), default=0) or 1
    top = "".join(f"<th>{escape(label)}</th>" for label in labels)
    body = []
    for name, row in rows.items():
        cells = "".join(
            f'<td style="background:rgba(31,111,235,{0.6 * value / most:.2f})">{value or ""}</td>' for value in row
        )
        body.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f"<table><tr><th>{escape(corner)}</th>{top}</tr>{''.join(body)}</table>"


def _dot(place: str, colour: str) -> str:
    x, y = place.split(",")
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>'


def _svg(parts: Sequence[str], height: int, label: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}" font-size="12" font-family="sans-serif"'
    return f'<svg role="img" aria-label="{escape(label)}" {size}>{"".join(parts)}</svg>'
