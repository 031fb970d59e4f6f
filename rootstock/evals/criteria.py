"""The testing criteria of an eval: written out as the API answers them, made graders, and what passes them.

What a grader does is `rootstock.grading`'s. Knows no rows and no HTTP.
"""

import uuid
from dataclasses import dataclass
from typing import Any

from rootstock.errors import InvalidValue
from rootstock.grading import Flag, Grade, Grader, Judge, PythonRunner, Sample, compile_grader

KINDS = ("string_check", "text_similarity", "score_model", "label_model", "python")
"""Graders that may be criteria: all but `multi`."""

DEFAULT_RANGE = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion, ready to grade."""

    id: str
    kind: str
    grader: Grader
    threshold: float
    """The least score that passes."""

    def result(self, item: dict[str, Any], sample: Sample, judge: Judge | None) -> dict[str, Any]:
        """The result of one item. A grade that failed has the score 0, does not pass, and says why in its sample."""
        grade = self.grader.grade(item, sample, judge)
        result = {"name": self.id, "type": self.kind, "score": grade.reward, "passed": False, "sample": None}
        if grade.failed is not None:
            return result | {"sample": {"error": {"code": code_of(grade), "message": grade.failed}}}
        return result | {"passed": grade.reward >= self.threshold}


def code_of(grade: Grade) -> str:
    """The name of what went wrong with a grade."""
    return min((str(flag) for flag in grade.flags), default=str(Flag.OTHER))


def check(specs: list[dict[str, Any]]) -> None:
    """Refuse criteria that could never grade. Raises `InvalidRequest` or one of its classes, with `param`."""
    for place, spec in enumerate(specs):
        at = f"testing_criteria[{place}]"
        if spec.get("type") not in KINDS:
            raise InvalidValue(
                f"'{at}' cannot be of the type 'multi'. Give each of its graders as a criterion.", param=f"{at}.type"
            )
        compile_grader(spec, at=at)


def written_out(spec: dict[str, Any]) -> dict[str, Any]:
    """A criterion as the API answers it: with an id of its own, each message with its type and its content as a part.

    Of several parts a list stays. Example: `{"role": "user", "content": "Hi"}` becomes
    `{"type": "message", "role": "user", "content": {"type": "input_text", "text": "Hi"}}`.
    """
    out = {**spec, "id": f"{spec['name']}-{uuid.uuid4()}"}
    if "input" in spec and isinstance(spec["input"], list):
        out["input"] = [message_written_out(message) for message in spec["input"]]
    return out


def message_written_out(message: dict[str, Any]) -> dict[str, Any]:
    """A message of a criterion or a template, with its type and its content as a part (of several parts a list)."""
    content = message["content"]
    if isinstance(content, list):
        parts: Any = [_part(part, message["role"]) for part in content]
        content = parts[0] if len(parts) == 1 else parts
    else:
        content = _part(content, message["role"])
    return {"type": "message", "role": message["role"], "content": content}


def compiled(specs: list[dict[str, Any]], python: PythonRunner | None) -> list[Criterion]:
    """The criteria that a run was made with, ready to grade."""
    return [
        Criterion(spec["id"], spec["type"], compile_grader(spec, python=python, at="testing_criteria"), threshold(spec))
        for spec in specs
    ]


def threshold(spec: dict[str, Any]) -> float:
    """The least score that passes: as given, 1 where scores are 0 or 1, else the middle of the range."""
    given = spec.get("pass_threshold")
    if given is not None:
        return float(given)
    if spec["type"] in ("string_check", "label_model"):
        return 1.0
    lowest, highest = spec.get("range") or DEFAULT_RANGE
    return (lowest + highest) / 2


def models_of(specs: list[dict[str, Any]]) -> dict[str, str]:
    """The models that judge, with the place of each in the eval."""
    return {f"testing_criteria[{n}].model": spec["model"] for n, spec in enumerate(specs) if "model" in spec}


def _part(content: Any, role: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, dict):
        return content | ({"type": kind} if content["type"] == "text" else {})
    return {"type": kind, "text": content}
