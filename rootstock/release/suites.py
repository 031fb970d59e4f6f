"""General suites: short questions that a base can answer, asked again of its tunes to see what they have forgotten.

A suite is a JSONL file, a question a line: `{"messages": [...], "answer": "...", "how": "exact"}`. Six come with the
project, written for it; operators add theirs as a folder. Knows nothing about models, or about how much may be lost.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rootstock.errors import ConfigurationError

How = Literal["exact", "contains", "regex", "json"]
"""How an answer is judged (see `scores`)."""

MAX_ANSWER_TOKENS = 16
"""What an answer may take, in about any tokenizer: the suites are asked on CPUs too."""

_BUILT_IN = Path(__file__).with_name("suites")
_ROLES = ("system", "user", "assistant")
_AROUND = " \t\n\"'`“”„«»\u2018\u2019"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, as in the chat API, and what a right answer is."""

    messages: tuple[dict[str, str], ...]
    answer: str
    how: How


@dataclass(frozen=True, slots=True)
class Suite:
    """Questions about one ability."""

    name: str
    questions: tuple[Question, ...]


@functools.cache
def built_in() -> tuple[Suite, ...]:
    """The suites that come with the project, by name: 60 questions each."""
    return tuple(_read(path) for path in sorted(_BUILT_IN.glob("*.jsonl")))


def load(folder: Path) -> tuple[Suite, ...]:
    """An operator's suites: each `*.jsonl` file of the folder is one, named after the file.

    Raises `ConfigurationError`, naming file and line, for what cannot be asked or judged.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"suites_dir: there is no folder {folder}.")
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise ConfigurationError(f"suites_dir: {folder} holds no *.jsonl file; each is one suite.")
    taken = {suite.name for suite in built_in()}
    for path in paths:
        if path.stem in taken:
            raise ConfigurationError(f"{path}: a suite named '{path.stem}' comes with Rootstock; rename the file.")
    return tuple(map(_read, paths))


def all_of(folder: Path | None) -> tuple[Suite, ...]:
    """The built-in suites and an operator's, where there is a folder (setting `suites_dir`). Raises as `load`."""
    return built_in() + (load(folder) if folder is not None else ())


def scores(question: Question, text: str) -> float:
    """1 for a right answer, 0 for any other.

    `exact`: the answer, whatever its case, in quotes or not, with or without a full stop. `contains`: it stands in
    the text as words of its own. `regex`: so does something that the pattern matches, whatever the case.
    `json`: the text is JSON (in a code fence or not) of the same value.
    """
    said, answer = unicodedata.normalize("NFKC", text), unicodedata.normalize("NFKC", question.answer)
    if question.how == "exact":
        return float(_plain(said) == _plain(answer))
    if question.how == "json":
        try:
            return float(_same(json.loads(_unfenced(said)), json.loads(answer)))
        except (ValueError, RecursionError):
            return 0.0
    pattern = re.escape(answer) if question.how == "contains" else answer
    return float(_as_words(pattern).search(said) is not None)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_AROUND).removesuffix(".").strip(_AROUND)


def _unfenced(text: str) -> str:
    fenced = re.fullmatch(r"\s*```\w*\n(.*?)\n?```\s*", text, re.DOTALL)
    return fenced[1] if fenced else text


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: Python takes `true` for 1."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


@functools.lru_cache(maxsize=1024)
def _as_words(pattern: str) -> re.Pattern[str]:
    # "12" is not in "128" or "12.5", but it is in "It is 12."
    return re.compile(rf"(?<!\w)(?<!\d[.,])(?:{pattern})(?!\w|[.,]\d)", re.IGNORECASE)


def _read(path: Path) -> Suite:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    questions = tuple(_question(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip())
    if not questions:
        raise ConfigurationError(f"{path}: holds no question; write one JSON object a line.")
    return Suite(path.stem, questions)


def _question(line: str, where: str) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: is not JSON ({error}).") from None
    if not isinstance(row, dict) or set(row) != {"messages", "answer", "how"}:
        raise ConfigurationError(f"{where}: write an object with the keys messages, answer and how, and no others.")
    messages, answer, how = row["messages"], row["answer"], row["how"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ConfigurationError(
            f"{where}: 'messages' is a list of objects with a role ({', '.join(_ROLES)}) and text."
        )
    if messages[-1]["role"] != "user":
        raise ConfigurationError(f"{where}: the last of 'messages' is the user's, for the model to answer.")
    if how not in get_args(How):
        raise ConfigurationError(f"{where}: 'how' is one of {', '.join(get_args(How))}, not {how!r}.")
    if not isinstance(answer, str) or not answer.strip():
        raise ConfigurationError(f"{where}: 'answer' is a text that is not empty.")
    _check_answer(answer, how, where)
    return Question(tuple(messages), answer, how)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and set(message) == {"role", "content"}
        and message["role"] in _ROLES
        and isinstance(message["content"], str)
    )


def _check_answer(answer: str, how: How, where: str) -> None:
    try:
        if how == "json":
            json.loads(answer)
        elif how == "regex":
            _as_words(answer)
    except (ValueError, RecursionError, re.error) as error:
        raise ConfigurationError(f"{where}: 'answer' is no valid {how} ({error}).") from None


def plain(messages: Iterable[Mapping[str, Any]]) -> str:
    """What messages say, in lower case and with single spaces, whoever says it."""
    return " ".join(" ".join(str(message["content"]) for message in messages).lower().split())


def texts(suites: Iterable[Suite]) -> set[str]:
    """What the suites ask, as `plain`: nothing of it may be trained on."""
    return {plain(question.messages) for suite in suites for question in suite.questions}
