"""General suites: short questions that a base can answer, asked again of its tunes to see what they have forgotten.

A suite is a JSONL file, a question a line: `{"messages": [...], "answer": "...", "how": "exact"}`. Six come with the
project, written for it; operators add theirs as a folder, projects theirs through the API. Knows nothing about models
or rows, or about how much may be lost.
"""

import functools
import hashlib
import json
import re
import sys
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


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a file may ask for: how answers are judged, and how much there may be. By default whatever can be judged."""

    hows: tuple[How, ...] = get_args(How)
    questions: int = sys.maxsize
    messages: int = sys.maxsize  # of a question
    characters: int = sys.maxsize  # of a question's messages together
    answer_characters: int = sys.maxsize


UNBOUNDED = Bounds()


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
    taken = names(None)
    for path in paths:
        if path.stem in taken:
            raise ConfigurationError(f"{path}: a suite named '{path.stem}' comes with Rootstock; rename the file.")
    return tuple(map(_read, paths))


def all_of(folder: Path | None) -> tuple[Suite, ...]:
    """The built-in suites and an operator's, where there is a folder (setting `suites_dir`). Raises as `load`."""
    return built_in() + (load(folder) if folder is not None else ())


def names(folder: Path | None) -> set[str]:
    """What `all_of` calls its suites; looks into no file, so that it answers whatever they hold."""
    return {suite.name for suite in built_in()} | {path.stem for path in (folder.glob("*.jsonl") if folder else ())}


def digest(suite: Suite) -> str:
    """The same for the same name and questions in the same order."""
    return hashlib.sha256(repr(suite).encode()).hexdigest()


def parse(name: str, text: str, bounds: Bounds = UNBOUNDED) -> Suite:
    """The suite that JSON lines make.

    Raises `ValueError`, naming the line and what to write instead, for what cannot be asked or judged or is beyond the
    bounds.
    """
    questions: list[Question] = []
    # Not `splitlines`: JSON texts may hold U+2028 and others that it takes for the end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(questions) == bounds.questions:
            raise ValueError(f"line {number}: a suite has at most {bounds.questions:,} questions; make two of it.")
        try:
            questions.append(_question(line, bounds))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not questions:
        raise ValueError("it holds no question; write one JSON object a line.")
    return Suite(name, tuple(questions))


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
        return parse(path.stem, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read as UTF-8 text ({error}).") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}, {error}") from None


def _question(line: str, bounds: Bounds) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error}).") from None
    if not isinstance(row, dict) or set(row) != {"messages", "answer", "how"}:
        raise ValueError("write an object with the keys messages, answer and how, and no others.")
    messages, answer, how = row["messages"], row["answer"], row["how"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ValueError(f"'messages' is a list of objects with a role ({', '.join(_ROLES)}) and text.")
    if messages[-1]["role"] != "user":
        raise ValueError("the last of 'messages' is the user's, for the model to answer.")
    if len(messages) > bounds.messages or sum(len(one["content"]) for one in messages) > bounds.characters:
        most = f"{bounds.messages} messages and {bounds.characters:,} characters in them"
        raise ValueError(f"a question has at most {most}; ask it in fewer words.")
    if how not in bounds.hows:
        raise ValueError(f"'how' is one of {', '.join(bounds.hows)}, not {str(how)[:64]!r}.")
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError("'answer' is a text that is not empty.")
    if len(answer) > bounds.answer_characters:
        raise ValueError(f"'answer' has at most {bounds.answer_characters} characters; ask for a shorter one.")
    _check_text([answer, *(one["content"] for one in messages)])
    _check_answer(answer, how)
    return Question(tuple(messages), answer, how)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and set(message) == {"role", "content"}
        and message["role"] in _ROLES
        and isinstance(message["content"], str)
    )


def _check_text(texts: Iterable[str]) -> None:
    """No engine can be sent a lone surrogate, and no database keeps a NUL."""
    for text in texts:
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("a text holds a NUL or half a character (a lone surrogate); remove it.")


def _check_answer(answer: str, how: How) -> None:
    try:
        if how == "json":
            json.loads(answer)
        elif how == "regex":
            _as_words(answer)
    except (ValueError, RecursionError, re.error) as error:
        raise ValueError(f"'answer' is no valid {how} ({error}).") from None


def plain(messages: Iterable[Mapping[str, Any]]) -> str:
    """What messages say, in lower case and with single spaces, whoever says it."""
    return " ".join(" ".join(str(message["content"]) for message in messages).lower().split())


def texts(suites: Iterable[Suite]) -> set[str]:
    """What the suites ask, as `plain`: nothing of it may be trained on."""
    return {plain(question.messages) for suite in suites for question in suite.questions}
