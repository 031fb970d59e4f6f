"""The numbers of a data set: lengths, languages, labels, the share that carries loss. Counts rows; judges nothing."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rootstock.datasets.parse import Fault
from rootstock.quality.labels import Labels
from rootstock.quality.sample import Reader
from rootstock.quality.traits import Row
from rootstock.records import DataFormat

PREVIEWED = 3
_PREVIEW_CHARS = 300
_LABELS = 50
_BINS = 24


def summarise(rows: Sequence[Row], broken: int, labels: Labels, context: int, *, estimated: bool) -> dict[str, Any]:
    """The summary of one file."""
    tokens = np.array([row.tokens for row in rows] or [0])
    learnt, given = (sum(getattr(row, name) for row in rows) for name in ("learnt_chars", "given_chars"))
    spoken = Counter(row.language for row in rows if row.language)
    edges = np.histogram_bin_edges(tokens, bins=_BINS)
    counts, _ = np.histogram(tokens, bins=edges)
    return {
        "examples": len(rows),
        "faulty": broken,
        "context": context,
        "tokens": {
            "estimated": estimated,
            "total": int(tokens.sum()),
            "min": int(tokens.min()),
            "median": int(np.median(tokens)),
            "p95": int(np.percentile(tokens, 95)),
            "max": int(tokens.max()),
            "histogram": {"edges": [float(round(edge, 1)) for edge in edges], "counts": counts.tolist()},
        },
        "loss_share": round(learnt / (learnt + given), 4) if learnt + given else 0.0,
        "refusal_share": round(sum(row.refusal for row in rows) / len(rows), 4) if rows else 0.0,
        "languages": dict(spoken.most_common(10)),
        "answers": dict(Counter(row.form for row in rows).most_common()),
        "labels": dict(labels.counts.most_common(_LABELS)),
        "system_prompts": len({row.system for row in rows if row.system_text}),
    }


def preview(lines: Sequence[tuple[int, bytes | None]], form: DataFormat | None) -> list[dict[str, Any]]:
    """The first examples, as what is given and what is learnt, shortened."""
    reader, shown = Reader(form), []
    for number, line in lines:
        try:
            sample = reader.read(line) if line is not None else None
        except Fault:
            continue
        if sample is None:
            continue
        calls = "\n".join(f"{name}({arguments})" for name, arguments in sample.calls)
        given = "\n".join(filter(None, [sample.system, sample.prompt]))
        learnt = "" if sample.samples_answers else "\n".join(filter(None, [sample.answer, calls]))
        shown.append({"line": number, "given": given[-_PREVIEW_CHARS:], "learnt": learnt[:_PREVIEW_CHARS]})
        if len(shown) == PREVIEWED:
            break
    return shown
