"""A data report as one page of HTML that needs nothing else: tables, and plots as inline SVG. Escapes everything."""
# ruff: noqa: E501 (markup)

from collections.abc import Sequence
from html import escape
from typing import Any

from rootstock.quality.findings import Report

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid #ddd}
.unusable,.blocking{color:#a11}.warning{color:#8a5a00}.info{color:#235}.cure{color:#555}
.lines{font-variant-numeric:tabular-nums;max-width:18rem;overflow-wrap:anywhere}
pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere;margin:0}.learnt{background:#e4f4e4}
svg{max-width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#444}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#242424}.learnt{background:#1f3a1f}
td,th{border-color:#444}.unusable,.blocking{color:#f77}.warning{color:#e0b050}.info{color:#9bd}.cure{color:#aaa}svg text{fill:#bbb}}
"""
_WIDTH, _HEIGHT = 640, 160
_LINES_SHOWN = 40


def page(report: Report, *, title: str) -> str:
    """The whole page; `title` is what was examined."""
    parts = [f"<h1>Data report: {escape(title)}</h1>", _findings(report)]
    for file in ("training", "validation"):
        numbers = report.summary.get(file)
        if numbers is not None:
            parts.append(_file(file, numbers))
    parts.append(_preview(report.summary.get("preview") or []))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Data report: {escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{"".join(parts)}</body></html>\n'


def _findings(report: Report) -> str:
    if not report.findings:
        return "<p>Nothing was found.</p>"
    rows = []
    for finding in report.findings:
        shown = ", ".join(map(str, finding.lines[:_LINES_SHOWN])) + (" …" if len(finding.lines) > _LINES_SHOWN else "")
        rows.append(
            f'<tr><td class="{finding.severity}">{finding.severity}</td><td>{finding.kind}</td><td>{finding.file}</td>'
            f'<td class="lines">{shown}</td><td>{escape(finding.message)}<br><span class="cure">{escape(finding.cure)}</span></td></tr>'
        )
    heading = "".join(f"<th>{name}</th>" for name in ("severity", "kind", "file", "lines", "what, and the cure"))
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _file(file: str, numbers: dict[str, Any]) -> str:
    tokens = numbers["tokens"]
    about = "estimated " if tokens["estimated"] else ""
    facts = (
        f"<p>{numbers['examples']:,} examples, {numbers['faulty']:,} faulty lines, {about}{tokens['total']:,} tokens (median "
        f"{tokens['median']:,}, 95 % below {tokens['p95']:,}, longest {tokens['max']:,}); {numbers['loss_share']:.0%} of the text "
        f"carries loss, {numbers['refusal_share']:.1%} of the answers refuse.</p>"
    )
    edges, counts = tokens["histogram"]["edges"], tokens["histogram"]["counts"]
    names = [f"{round(edges[0]):,}", *[""] * (len(counts) - 2), f"{round(edges[-1]):,}"]
    plots = [_bars(f"Length in {about}tokens", counts, names)]
    for heading, values in (("Labels", numbers["labels"]), ("Languages", numbers["languages"])):
        if values:
            listed = list(values.items())[:24]
            plots.append(_rows(heading, [name for name, _ in listed], [count for _, count in listed]))
    return f"<h2>{file.capitalize()} file</h2>{facts}{''.join(plots)}"


def _bars(heading: str, counts: Sequence[int], names: Sequence[str]) -> str:
    most, width = max([1, *counts]), _WIDTH / max(len(counts), 1)
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{_HEIGHT * (1 - n / most):.1f}" width="{width - 1:.1f}" height="{_HEIGHT * n / most:.1f}" '
        f'fill="#4a7db5"><title>{n}</title></rect>'
        for i, n in enumerate(counts)
    )
    labels = "".join(
        f'<text x="{0 if i == 0 else _WIDTH}" y="{_HEIGHT + 14}" text-anchor="{"start" if i == 0 else "end"}">{escape(name)}</text>'
        for i, name in enumerate(names)
        if name
    )
    return f'<h3>{escape(heading)}</h3><svg viewBox="0 0 {_WIDTH} {_HEIGHT + 20}" role="img" aria-label="{escape(heading)}">{bars}{labels}</svg>'


def _rows(heading: str, names: Sequence[str], counts: Sequence[int]) -> str:
    most, left = max([1, *counts]), 200
    rows = "".join(
        f'<text x="{left - 6}" y="{i * 20 + 14}" text-anchor="end">{escape(name[:32])}</text><rect x="{left}" y="{i * 20 + 3}" '
        f'width="{(_WIDTH - left - 60) * n / most:.1f}" height="14" fill="#4a7db5"/><text x="{left + (_WIDTH - left - 60) * n / most + 4:.1f}" '
        f'y="{i * 20 + 14}">{n:,}</text>'
        for i, (name, n) in enumerate(zip(names, counts, strict=True))
    )
    return f'<h3>{escape(heading)}</h3><svg viewBox="0 0 {_WIDTH} {len(names) * 20 + 4}" role="img" aria-label="{escape(heading)}">{rows}</svg>'


def _preview(preview: Sequence[dict[str, Any]]) -> str:
    shown = "".join(
        f'<h3>Line {example["line"]}</h3><pre>{escape(example["given"])}</pre><pre class="learnt">{escape(example["learnt"])}</pre>'
        for example in preview
    )
    return f"<h2>What is learnt</h2><p>Given in grey, learnt in green, both shortened.</p>{shown}" if shown else ""
