"""What answers are worth that look at no question: the best that a model can do which learned only what answers
look like. A tune on shuffled answers gets there, so it is what a tune has to beat. Knows no model.
"""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rootstock.release.metrics import Metric, normal, parse

CANDIDATES = 32
"""Texts that are compared with one another to find the one in the middle."""


def constant(metric: Metric, references: Sequence[str]) -> str:
    """The one answer that scores best against all of these, which are those of the training set.

    The most frequent label; of JSON the most frequent value in each place; of texts the one in the middle of some.
    Raises `ValueError` for none.
    """
    if not references:
        raise ValueError("there is no answer to choose from")
    if metric.name == "json_fields":
        values = [value for value in map(parse, references) if value is not None]
        candidates = [json.dumps(_most_frequent(values), ensure_ascii=False), *references[:CANDIDATES]]
    elif metric.name in ("label_accuracy", "exact_match"):
        counts = Counter(map(normal, references))
        return min(counts, key=lambda label: (-counts[label], label))
    else:
        candidates = list(references[:CANDIDATES])
    against = references[: 4 * CANDIDATES]
    return max(candidates, key=lambda text: statistics.fmean(metric.score(text, wanted) for wanted in against))


def _most_frequent(values: Sequence[Any]) -> Any:
    objects = [value for value in values if isinstance(value, dict)]
    if 2 * len(objects) <= len(values):
        counts = Counter(json.dumps(value, sort_keys=True) for value in values)
        return json.loads(min(counts, key=lambda text: (-counts[text], text)))
    names = dict.fromkeys(name for value in objects for name in value)
    kept: dict[str, Any] = {}
    for name in names:
        inner = [value[name] for value in objects if name in value]
        if 2 * len(inner) > len(objects):
            kept[name] = _most_frequent(inner)
    return kept
