"""From a grader as customers write it to one that grades, or to an error that names the field and the cure.

Checks all that can be known before the first sample. Knows nothing about how a grader of any kind computes its score.
"""

import math
import re
from typing import Any

from rootstock.errors import InvalidRequest, InvalidType, InvalidValue, MissingParameter
from rootstock.grading.formulas import Formula, FormulaError
from rootstock.grading.formulas import parse as parse_formula
from rootstock.grading.graders import Grader, LabelModel, Multi, Python, ScoreModel, Single, StringCheck, TextSimilarity
from rootstock.grading.judging import Question
from rootstock.grading.python_runner import PythonRunner
from rootstock.grading.python_source import SourceError, check
from rootstock.grading.similarity import METRICS
from rootstock.grading.templates import Template, TemplateError
from rootstock.grading.templates import parse as parse_template

MAX_GRADERS = 32
ALL_OR_NOTHING = ("string_check", "label_model")
"""Kinds whose score is 0 or 1: they pass with 1. For the others a threshold has to be named."""

OPERATIONS = ("eq", "ne", "like", "ilike")
ROLES = ("user", "assistant", "system", "developer")
PARTS = ("string_check", "text_similarity", "score_model", "label_model", "python")
SAMPLING = ("seed", "top_p", "temperature", "max_completion_tokens", "reasoning_effort")


def compile_grader(
    spec: dict[str, Any], *, python: PythonRunner | None = None, at: str = "method.reinforcement.grader"
) -> Grader:
    """The grader that `spec` describes, in the API's shape.

    `python` runs the sources of Python graders; without one they are checked, and fail when they grade. `at` is where
    the spec stands in the request. Raises `InvalidRequest` or one of its classes, with the place in `param`.
    """
    return _Compiler(python).grader(spec, at)


class _Compiler:
    def __init__(self, python: PythonRunner | None) -> None:
        self._python = python

    def grader(self, spec: Any, at: str) -> Grader:
        kind = _kind(spec, at, (*PARTS, "multi"))
        return self._multi(spec, at) if kind == "multi" else self._single(spec, at)

    def _single(self, spec: Any, at: str) -> Single:
        kind = _kind(spec, at, PARTS)
        scores: Any
        match kind:
            case "string_check":
                operation = "ne" if spec.get("operation") == "neq" else _one_of(spec, "operation", at, OPERATIONS)
                scores = StringCheck(_template(spec, "input", at), _template(spec, "reference", at), operation)
            case "text_similarity":
                metric = _metric(spec, at)
                scores = TextSimilarity(_template(spec, "input", at), _template(spec, "reference", at), metric)
            case "score_model":
                scores = ScoreModel(_question(spec, at), *_range(spec, at))
            case "label_model":
                labels, passing = _strings(spec, "labels", at), _strings(spec, "passing_labels", at)
                if strange := sorted(set(passing) - set(labels)):
                    raise InvalidValue(
                        f"'{strange[0]}' is not one of 'labels'. Name only labels that the model may choose.",
                        param=f"{at}.passing_labels",
                    )
                scores = LabelModel(_question(spec, at), tuple(labels), frozenset(passing))
            case _:
                scores = Python(_source(spec, at), self._python)
        threshold = _number(spec, "pass_threshold", at)
        if threshold is None and kind in ALL_OR_NOTHING:
            threshold = 1.0
        name = _text(spec, "name", at) if kind != "python" or spec.get("name") is not None else "python"
        return Single(name, kind, threshold, scores)

    def _multi(self, spec: dict[str, Any], at: str) -> Multi:
        given, place = spec.get("graders"), f"{at}.graders"
        if given is None:
            raise _missing(place)
        if not isinstance(given, dict | list):
            raise InvalidType("'graders' must be an object of graders by name, or a list of them.", param=place)
        if not 0 < len(given) <= MAX_GRADERS:
            raise InvalidValue(f"'graders' must hold 1 to {MAX_GRADERS} graders.", param=place)
        parts: dict[str, Single] = {}
        if isinstance(given, dict):
            parts = {name: self._single(part, f"{place}.{name}") for name, part in given.items()}
        else:
            for index, part in enumerate(given):
                one = self._single(part, f"{place}[{index}]")
                if one.name in parts:
                    raise InvalidValue(
                        f"Two graders are called '{one.name}'. Give each a name of its own.",
                        param=f"{place}[{index}].name",
                    )
                parts[one.name] = one
        formula = _formula(spec, at, parts)
        name = "multi" if spec.get("name") is None else _text(spec, "name", at)
        return Multi(name, parts, formula, _number(spec, "pass_threshold", at))


def _kind(spec: Any, at: str, kinds: tuple[str, ...]) -> str:
    if not isinstance(spec, dict):
        raise InvalidType("A grader must be an object.", param=at)
    if spec.get("type") == "multi" and "multi" not in kinds:
        raise InvalidValue("A 'multi' grader cannot stand inside another.", param=f"{at}.type")
    return _one_of(spec, "type", at, kinds)


def _formula(spec: dict[str, Any], at: str, parts: dict[str, Single]) -> Formula:
    place = f"{at}.calculate_output"
    try:
        formula = parse_formula(_text(spec, "calculate_output", at))
    except FormulaError as error:
        raise InvalidValue(f"'calculate_output' is not a formula. {error}", param=place) from None
    if unknown := sorted(formula.names - set(parts)):
        usable = ", ".join(f"'{name}'" for name in parts if re.fullmatch(r"[^\W\d]\w*", name)) or "none"
        raise InvalidValue(
            f"'calculate_output' names '{unknown[0]}', which is no grader here. It can name: {usable}.", param=place
        )
    return formula


def _metric(spec: dict[str, Any], at: str) -> str:
    place = f"{at}.evaluation_metric"
    usable = ", ".join(f"'{name}'" for name in METRICS)
    match spec.get("evaluation_metric"):
        case "cosine":
            raise InvalidValue(
                f"'cosine' needs embeddings, which this deployment lacks; use one of {usable}.", param=place
            )
        case "meteor":
            raise InvalidValue(
                f"'meteor' needs the WordNet data, which this deployment lacks; use one of {usable}.", param=place
            )
    return _one_of(spec, "evaluation_metric", at, tuple(METRICS))


def _range(spec: dict[str, Any], at: str) -> tuple[float, float]:
    given = spec.get("range")
    if given is None:
        return 0.0, 1.0
    bounds = [_finite(bound) for bound in given] if isinstance(given, list) else []
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None or bounds[0] >= bounds[1]:
        raise InvalidValue("'range' must be [lowest, highest], two rising numbers.", param=f"{at}.range")
    return bounds[0], bounds[1]


def _question(spec: dict[str, Any], at: str) -> Question:
    given = spec.get("input")
    if given is None:
        raise _missing(f"{at}.input")
    if not isinstance(given, list) or not given:
        raise InvalidType("'input' must be a list of at least one message.", param=f"{at}.input")
    messages = tuple(_message(message, f"{at}.input[{index}]") for index, message in enumerate(given))
    return Question(_text(spec, "model", at), messages, _sampling(spec, at))


def _message(message: Any, at: str) -> tuple[str, tuple[Template, ...]]:
    if not isinstance(message, dict):
        raise InvalidType("A message must be an object.", param=at)
    role = _one_of(message, "role", at, ROLES)
    content = message.get("content")
    if not isinstance(content, list):
        if isinstance(content, dict):
            return role, (_template(content, "text", f"{at}.content"),)
        return role, (_template(message, "content", at),)
    if not all(isinstance(part, dict | str) for part in content):
        raise InvalidType("Each part of a message must be a text or an object with a 'text'.", param=f"{at}.content")
    parts = ({"text": part} if isinstance(part, str) else part for part in content)
    return role, tuple(_template(part, "text", f"{at}.content[{index}]") for index, part in enumerate(parts))


def _sampling(spec: dict[str, Any], at: str) -> dict[str, Any]:
    given = spec.get("sampling_params")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidType("'sampling_params' must be an object.", param=f"{at}.sampling_params")
    # The grader's schema has a name of its own for what the chat API calls max_completion_tokens.
    known = {"max_completion_tokens" if key == "max_completions_tokens" else key: given[key] for key in given}
    if strange := sorted(set(known) - set(SAMPLING)):
        raise InvalidRequest(
            f"There is no sampling parameter '{strange[0]}'; there are {', '.join(SAMPLING)}.",
            param=f"{at}.sampling_params.{strange[0]}",
            code="unknown_parameter",
        )
    return {key: value for key, value in known.items() if value is not None}


def _source(spec: dict[str, Any], at: str) -> str:
    source = _text(spec, "source", at)
    try:
        check(source)
    except SourceError as error:
        raise InvalidValue(str(error), param=f"{at}.source") from None
    return source


def _template(spec: dict[str, Any], key: str, at: str) -> Template:
    try:
        return parse_template(_text(spec, key, at))
    except TemplateError as error:
        raise InvalidValue(str(error), param=f"{at}.{key}") from None


def _missing(place: str) -> MissingParameter:
    return MissingParameter(f"Missing required parameter: '{place}'.", param=place)


def _text(spec: dict[str, Any], key: str, at: str) -> str:
    value = spec.get(key)
    if value is None:
        raise _missing(f"{at}.{key}")
    if not isinstance(value, str):
        raise InvalidType(f"'{key}' must be a string.", param=f"{at}.{key}")
    return value


def _one_of(spec: dict[str, Any], key: str, at: str, known: tuple[str, ...]) -> str:
    value = _text(spec, key, at)
    if value not in known:
        names = ", ".join(f"'{name}'" for name in known)
        raise InvalidValue(f"'{value[:64]}' is not a known {key}; use one of {names}.", param=f"{at}.{key}")
    return value


def _strings(spec: dict[str, Any], key: str, at: str) -> list[str]:
    value = spec.get(key)
    if value is None:
        raise _missing(f"{at}.{key}")
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise InvalidType(f"'{key}' must be a list of at least one string.", param=f"{at}.{key}")
    return value


def _number(spec: dict[str, Any], key: str, at: str) -> float | None:
    value = spec.get(key)
    if value is None:
        return None
    number = _finite(value)
    if number is None:
        raise InvalidType(f"'{key}' must be a finite number.", param=f"{at}.{key}")
    return number


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
