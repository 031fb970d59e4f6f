"""Whether answers keep one form: the schema that most JSON answers fulfil, the spelling of labels, the system prompt.

Works on rows; nothing is declared, all of it is inferred from the majority.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rootstock.quality.findings import File, Findings, counted
from rootstock.quality.kinds import Kind
from rootstock.quality.labels import Labels, plain
from rootstock.quality.traits import Row, Shape

MAJORITY = 0.8
"""Share of lines that makes a form the rule."""

_REQUIRED = 0.9  # of the objects have the key
_UNKNOWN = 0.08  # of the objects have the key, at most
_LEAST = 10  # answers from which a rule is inferred
_ENUMERATED = 20
_SAME_PROMPT = 0.1  # of the lines have this system prompt: it is one of the set's own
_CURE = "Bring these answers into the form of the others, or take them out."
_LETTERS, _NUMBERS, _RUNS = re.compile(r"[^\W\d_]+"), re.compile(r"\d+"), re.compile(r"\s+")


def examine(findings: Findings, file: File, rows: Sequence[Row], labels: Labels) -> None:
    """Find answers that are not in the form of the others."""
    reasons: dict[str, list[int]] = defaultdict(list)
    for line, reason in _deviations(rows, labels).items():
        reasons[reason].append(line)
    for reason, lines in reasons.items():
        are = "is" if len(lines) == 1 else "are"
        message = f"{counted(len(lines), 'answer')} {are} not in the form of the others: {reason}."
        findings.add(Kind.INCONSISTENT_FORMAT, file, lines, message, _CURE)


def enumerated(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """The fields of JSON answers that take one of few values, each with its values: labels of a kind."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for path, (sort, value) in (row.shape or {}).items():
            if sort in ("string", "boolean") and "[]" not in path:
                counted_here = values[path]
                if len(counted_here) <= 4 * _ENUMERATED:
                    counted_here[value] += 1
    return {
        path: counts
        for path, counts in values.items()
        if (total := sum(counts.values())) >= 20
        and len(counts) <= 2 * _ENUMERATED
        and sum(n for _, n in counts.most_common(_ENUMERATED)) >= 0.9 * total
        and total / min(len(counts), _ENUMERATED) >= 4
    }


def _deviations(rows: Sequence[Row], labels: Labels) -> dict[int, str]:
    """Line -> in what way its answer is not like the others."""
    found: dict[int, str] = {}
    answered = [row for row in rows if row.form in ("json", "calls", "label", "text") and not row.refusal]
    forms = Counter(row.form for row in answered)
    structured = forms["json"] >= MAJORITY * len(answered)
    if len(answered) >= _LEAST:
        for row in answered:
            if structured and row.form != "json":
                found[row.line] = "no JSON, where the others are JSON"
            elif not structured and row.form == "json" and forms["json"] < (1 - MAJORITY) / 2 * len(answered):
                found[row.line] = "JSON, where the others are not"
    if structured:
        found |= deviating([(row.line, row.shape) for row in answered if row.shape is not None])
    by_function: dict[str, list[tuple[int, Shape]]] = defaultdict(list)
    for row in answered:
        if row.undeclared is not None:
            found[row.line] = f"a call of '{row.undeclared[:64]}', which the example's tools do not declare"
        for name, shape in row.calls:
            by_function[name].append((row.line, shape or {}))
    for name, shapes in by_function.items():
        found |= {line: f"{reason} in calls of '{name}'" for line, reason in deviating(shapes).items()}
    if labels.counts:
        found |= _labels(answered, labels)
    return found


def deviating(shapes: Sequence[tuple[int, Shape]]) -> dict[int, str]:
    """Line -> what its JSON lacks or has, measured by the schema that most of these fulfil."""
    if len(shapes) < _LEAST:
        return {}
    types: dict[str, Counter[str]] = defaultdict(Counter)
    for _, shape in shapes:
        for path, (sort, _) in shape.items():
            types[path][sort] += 1
    count = {path: sum(sorts.values()) for path, sorts in types.items()}
    parents = {path: count.get(_parent(path), len(shapes)) if _parent(path) else len(shapes) for path in types}
    required = [path for path in types if count[path] >= _REQUIRED * parents[path] and not path.endswith("[]")]
    unknown = {path for path in types if count[path] < _UNKNOWN * parents[path] and not path.endswith("[]")}
    # Where every object has keys of its own, keys are data.
    if sum(any(path in unknown for path in shape) for _, shape in shapes) > 0.15 * len(shapes):
        unknown = set()
    usual = {path: _usual_type(sorts) for path, sorts in types.items()}
    styles = {path: _Style([s[path][1] for _, s in shapes if s.get(path, ("",))[0] == "string"]) for path in types}
    found = {}
    for line, shape in shapes:
        reason = _fault(shape, required, unknown, usual, styles)
        if reason is not None:
            found[line] = reason
    return found


def _fault(
    shape: Shape,
    required: list[str],
    unknown: set[str],
    usual: dict[str, str | None],
    styles: "dict[str, _Style]",
) -> str | None:
    for path in required:
        parent = _parent(path)
        if path not in shape and (not parent or shape.get(parent, ("",))[0] == "object"):
            return f"the key '{path[:64]}' is missing"
    for path, (sort, value) in shape.items():
        if path in unknown:
            return f"the key '{path[:64]}' is in hardly any other"
        if usual[path] is not None and sort not in (usual[path], "null"):
            return f"'{path[:64]}' is a {sort} where the others have a {usual[path]}"
        if sort == "string" and styles[path].odd(value):
            return f"'{path[:64]}' is written in another way"
    return None


def _parent(path: str) -> str:
    if path.endswith("[]"):
        return path[:-2]
    return path.rpartition(".")[0]


def _usual_type(sorts: Counter[str]) -> str | None:
    known = Counter({sort: count for sort, count in sorts.items() if sort != "null"})
    total = sum(known.values())
    if total < _LEAST:
        return None
    sort, count = known.most_common(1)[0]
    return sort if count >= _REQUIRED * total else None


class _Style:
    """How the values of one field are written: with a form like a date's, or as one of few spellings."""

    def __init__(self, values: Sequence[str]) -> None:
        self._form: str | None = None
        self._spelling: dict[str, str] = {}
        if len(values) < _LEAST:
            return
        form, count = Counter(map(_form, values)).most_common(1)[0]
        if count >= _REQUIRED * len(values) and "9" in form and len(set(values)) > 5:
            self._form = form
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for value in values:
            spellings[plain(value)][value] += 1
        for label, ways in spellings.items():
            way, times = ways.most_common(1)[0]
            if len(ways) > 1 and times >= 5 and times >= 3 * (sum(ways.values()) - times):
                self._spelling[label] = way

    def odd(self, value: str) -> bool:
        """Whether this value is written in another way than the others."""
        if self._form is not None and _form(value) != self._form and value:
            return True
        return self._spelling.get(plain(value), value) != value


def _form(value: str) -> str:
    return _RUNS.sub(" ", _LETTERS.sub("a", _NUMBERS.sub("9", value)))


def _labels(answered: Sequence[Row], labels: Labels) -> dict[int, str]:
    usual = {label: ways.most_common(1)[0][0] for label, ways in labels.spellings.items()}
    # One spelling must be the rule before others break it.
    ruled = {
        label
        for label, ways in labels.spellings.items()
        if ways[usual[label]] >= 3 * (ways.total() - ways[usual[label]])
    }
    longest = max((len(label.split()) for label in labels.common), default=0)
    found = {}
    for row in answered:
        label = plain(row.answer)
        if label in labels.common and label in ruled and row.answer != usual[label]:
            found[row.line] = f"'{row.answer[:40]}' is written in another way than '{usual[label][:40]}'"
        elif label not in labels.common and row.form in ("label", "text"):
            if labels.held_in(label) is not None:
                found[row.line] = "a label with text around it"
            elif row.form == "text" and len(label.split()) > longest + 2:
                found[row.line] = "a text, where the others are labels"
    return found


def system_prompts(findings: Findings, file: File, rows: Sequence[Row]) -> None:
    """Find lines whose system prompt is not that of the others."""
    prompts = Counter(row.system for row in rows)
    none = next((row.system for row in rows if not row.system_text), None)
    if len(prompts) < 2 or len(rows) < _LEAST:
        return
    first = prompts.most_common(1)[0][0]
    own = {p for p, n in prompts.items() if n >= _SAME_PROMPT * len(rows) and (p != none or p == first)}
    if sum(prompts[prompt] for prompt in own) < MAJORITY * len(rows) - (
        prompts[none] if none not in own and none else 0
    ):
        return
    lacking = [row.line for row in rows if row.system == none and none not in own]
    other = [row.line for row in rows if row.system not in own and row.system != none]
    cure = "Use one system prompt, the one that the model will be called with."
    if lacking:
        message = (
            f"{counted(len(lacking), 'example')} of {len(rows):,} have no system prompt, where the others have one."
        )
        findings.add(Kind.INCONSISTENT_SYSTEM_PROMPT, file, lacking, message, cure)
    if other:
        message = f"{counted(len(other), 'example')} of {len(rows):,} have a system prompt that hardly any other has."
        findings.add(Kind.INCONSISTENT_SYSTEM_PROMPT, file, other, message, cure)
