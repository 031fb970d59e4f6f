"""`{{ item.a.b }}` in a text: paths into the item and the sample, and nothing else. Knows no grader.

A path is `item` or `sample`, then `.name`, `[0]` or `["any key"]`, at least once. Spaces inside the braces do not
matter. There are no filters, no arithmetic and no way to write a literal `{{`.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from rootstock.grading.outcome import Flag, GradingFailed, Sample

SAMPLE_NAMES = ("output_text", "output_json", "output_tools", "choices")

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_STEP = re.compile(
    r"""\.(?P<name>[\w$@-]+)|\[\s*(?P<index>\d{1,9})\s*\]|\[\s*(?:"(?P<dq>[^"]*)"|'(?P<sq>[^']*)')\s*\]"""
)

Step = str | int


class TemplateError(ValueError):
    """The text is no template. The message is a sentence that says what to write instead."""


@dataclass(frozen=True)
class Path:
    """One path: where it starts, and the keys and indexes from there."""

    namespace: str
    steps: tuple[Step, ...]
    text: str
    """As it was written."""


@dataclass(frozen=True)
class Template:
    """A text with holes. Made by `parse`."""

    parts: tuple[str | Path, ...]

    def render(self, item: dict[str, Any], sample: Sample) -> str:
        """The text with every path replaced by its value: strings as they are, all else as JSON.

        Raises `GradingFailed` naming a path that leads nowhere.
        """
        return "".join(part if isinstance(part, str) else _shown(part, item, sample) for part in self.parts)


def parse(text: str) -> Template:
    """Read a template. Raises `TemplateError`."""
    parts: list[str | Path] = []
    end = 0
    for hole in _HOLE.finditer(text):
        parts += [text[end : hole.start()], _path(hole[1])]
        end = hole.end()
    rest = text[end:]
    if "{{" in rest:
        raise TemplateError("A '{{' is never closed. Close it with '}}'; a template cannot hold '{{' otherwise.")
    return Template(tuple(part for part in (*parts, rest) if part != ""))


def _path(written: str) -> Path:
    text = written.strip()
    shown = text if len(text) <= 100 else text[:100] + "…"
    head = re.match(r"\w*", text)
    namespace = head[0] if head else ""
    if namespace not in ("item", "sample"):
        raise TemplateError(f"'{{{{ {shown} }}}}' must start with 'item.' or 'sample.'; there are no other names.")
    steps: list[Step] = []
    at = len(namespace)
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise TemplateError(
                f"'{{{{ {shown} }}}}' is not a path. Write 'item.name', 'item.list[0]' or 'item[\"any key\"]'; "
                "filters and expressions do not exist."
            )
        steps.append(
            int(step["index"]) if step["index"] else next(k for k in step.group("name", "dq", "sq") if k is not None)
        )
        at = step.end()
    if not steps:
        raise TemplateError(
            f"'{{{{ {shown} }}}}' names all of '{namespace}'. Name a part of it, such as '{namespace}.x'."
        )
    if namespace == "sample" and steps[0] not in SAMPLE_NAMES:
        names = ", ".join(f"'sample.{name}'" for name in SAMPLE_NAMES)
        raise TemplateError(f"'{{{{ {shown} }}}}' does not exist; a sample has {names}.")
    return Path(namespace, tuple(steps), text)


def value_at(template: Template, item: dict[str, Any]) -> Any:
    """What the one path of a template leads to in the item, as it is.

    Raises `GradingFailed` when it leads nowhere. Example: the list at `parse("{{ item.input }}")`.
    """
    (path,) = template.parts
    assert isinstance(path, Path)
    return _reached(path, item, Sample.nothing())


def _shown(path: Path, item: dict[str, Any], sample: Sample) -> str:
    value = _reached(path, item, sample)
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise GradingFailed(Flag.VARIABLE, f"'{path.text}' cannot be written as JSON.") from None


def _reached(path: Path, item: dict[str, Any], sample: Sample) -> Any:
    if path.namespace == "sample" and path.steps[0] == "output_json" and sample.given and not sample.is_json:
        why = f"The sample is not JSON, so '{path.text}' does not exist."
        raise GradingFailed(Flag.SAMPLE, why, wrong_form=True)
    value: Any = item if path.namespace == "item" else sample.as_dict()
    for step in path.steps:
        reached = isinstance(value, dict) if isinstance(step, str) else isinstance(value, list)
        try:
            if not reached:
                raise KeyError(step)
            value = value[step]
        except (KeyError, IndexError):
            why = f"'{path.text}' does not exist for this sample."
            raise GradingFailed(Flag.VARIABLE, why, wrong_form=path.namespace == "sample") from None
    return value
