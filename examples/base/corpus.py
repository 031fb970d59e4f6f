"""The pre-training text of the example model: a seeded, endless mixture of chat tasks and running English.

Chat tasks come from `tasks` and `extraction`. Running English is the documentation that ships with Python itself, read
at build time, because it is the one sizeable body of prose that every machine able to run this script already has.
The module knows nothing about tokenizers or models.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pydoc_data.topics
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from examples.base import extraction, tasks, words

Message = dict[str, Any]
Composer = Callable[[Random], list[Message]]

# Half of the chat share asks for values or labels out of a message: that is what people tune small models for.
MIXTURE: tuple[tuple[Composer, float], ...] = (
    (extraction.structured, 26),
    (extraction.structured_series, 6),
    (extraction.single_value, 12),
    (extraction.classify, 10),
    (extraction.lookup, 7),
    (extraction.fill_json, 7),
    (tasks.copy_text, 9),
    (tasks.rewrite, 6),
    (tasks.listing, 5),
    (tasks.arithmetic, 2),
    (tasks.question, 2),
    (tasks.chat, 2),
    (tasks.obey_system, 5),
    (tasks.few_shot, 4),
    (tasks.remember, 2),
    (tasks.tool_call, 2),
)
DOC_MODULES = words.split(
    "argparse asyncio collections configparser contextlib csv datetime decimal difflib email fractions functools "
    "heapq http imaplib inspect itertools json logging mailbox os pathlib pickle random re sched shelve shlex shutil "
    "smtplib socket sqlite3 statistics string subprocess tarfile tempfile textwrap threading turtle typing unittest "
    "urllib.request uuid warnings wave weakref xml.dom zipfile"
)


@dataclass(frozen=True)
class Sample:
    """One training document: either a conversation (with the tools it may call) or running text."""

    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    text: str = ""
    repeats: int = 1  # the text follows itself this many times; only what can be copied is learned


def chat_sample(rng: Random, composer: Composer | None = None) -> Sample:
    """One conversation from the mixture, or from the composer given."""
    composer = composer or rng.choices([c for c, _ in MIXTURE], [w for _, w in MIXTURE])[0]
    messages = composer(rng)
    if messages[0]["role"] == "tools":
        return Sample(messages=messages[1:], tools=messages[0]["tools"])
    return Sample(messages=messages)


def _docstrings(name: str) -> Iterator[str]:
    """The docstrings of a standard library module and of its public members."""
    module = importlib.import_module(name)
    for attribute in ["", *sorted(vars(module))]:
        owner = getattr(module, attribute) if attribute else module
        if attribute.startswith("_") or not (attribute == "" or inspect.isclass(owner) or inspect.isroutine(owner)):
            continue
        yield inspect.getdoc(owner) or ""
        if inspect.isclass(owner):
            yield from (inspect.getdoc(vars(owner)[m]) or "" for m in sorted(vars(owner)) if not m.startswith("_"))


def _is_prose(paragraph: str) -> bool:
    """Keep sentences; drop code, grammar productions and tables, from which a tiny model learns little."""
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    return len(paragraph) > 60 and letters / len(paragraph) > 0.9 and ">>>" not in paragraph and " = " not in paragraph


def documentation_text() -> list[str]:
    """Paragraphs of English from Python's own manual pages and docstrings, without duplicates, in a fixed order."""
    sources = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # looking at a deprecated name already warns
        for name in DOC_MODULES:
            sources.extend(_docstrings(name))
    seen: dict[str, None] = {}
    for source in sources:
        for block in source.split("\n\n"):
            paragraph = re.sub(r"\s+", " ", re.sub(r'["*`]', "", block)).strip()
            if _is_prose(paragraph):
                seen.setdefault(paragraph)
    return list(seen)


def text_sample(rng: Random, paragraphs: list[str]) -> Sample:
    """A few neighbouring paragraphs of running text."""
    start = rng.randrange(len(paragraphs))
    return Sample(text="\n".join(paragraphs[start : start + rng.randint(1, 5)]))


def repeated_sample(rng: Random) -> Sample:
    """Random words and codes, twice or more: the shortest way to heads that find an earlier token and copy on."""
    makers = (words.invented, words.code, words.thing, words.person, words.brand, words.digits)
    parts = [words.pick(rng, makers)(rng) for _ in range(rng.randint(2, 9))]
    return Sample(text=words.pick(rng, (" ", " ", ", ", "\n")).join(["", *parts]), repeats=rng.randint(2, 3))


def stream(
    seed: int, text_share: float = 0.06, paragraphs: list[str] | None = None, repeated: bool = True, start: int = 0
) -> Iterator[Sample]:
    """Samples without end; the same seed (and Python version) gives the same ones."""
    rng = Random(seed)
    paragraphs = documentation_text() if paragraphs is None else paragraphs
    for count in itertools.count(start):
        if repeated and rng.random() < max(0.08, 0.6 * (1 - count / 8000)):  # mostly early on, to form copying heads
            yield repeated_sample(rng)
        else:
            yield text_sample(rng, paragraphs) if rng.random() < text_share else chat_sample(rng)


def plain_text(sample: Sample) -> str:
    """The words of a sample without any chat markup, for tokenizer training."""
    return sample.text or "\n".join(str(message["content"]) for message in sample.messages)
