"""What inference takes, counted: a `Tally` for one question, a `Meter` that adds up those of this process.

The sums lie in memory for a second or two and go to the database together, each write once, however often it has to be
tried. A process that is killed loses what lay there. Knows no route; of vLLM only how it reports tokens.
"""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rootstock import ids, usage
from rootstock.db import Database
from rootstock.usage import Amounts, Key

log = logging.getLogger(__name__)

MAX_SUMS = 10_000
"""Sums that wait in memory, each of some hundred bytes. Beyond these a project's models are added up under one name."""

OTHERS = "(others)"


class Meter:
    """One per process. Let `flush` run every second or two, and `close` at the end."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._name = ids.new("meter_")
        self._number = 0
        self._fresh: dict[Key, Amounts] = {}
        self._leaving: dict[Key, Amounts] = {}
        """The write that is tried; unchanged until it is known to be done, or it might count twice."""

        self._adding = threading.Lock()
        self._writing = threading.Lock()

    def add(self, project_id: str, model: str, amounts: Amounts) -> None:
        """Add to today's sum of a project and a model. Never waits for the database."""
        key = Key.today(project_id, model)
        with self._adding:
            if key not in self._fresh and len(self._fresh) >= MAX_SUMS:
                key = Key(project_id, key.day, OTHERS)
            self._fresh[key] = self._fresh.get(key, Amounts()) + amounts

    def flush(self) -> None:
        """Write what was added so far, or go on with the write that did not succeed. Raises `Unavailable`."""
        with self._writing:
            if not self._leaving:
                self._take()
            if self._leaving:
                with self._db.transaction() as tx:
                    # A commit whose answer was lost on the way may have been made all the same.
                    if usage.is_first(tx, self._name, self._number):
                        usage.add(tx, self._leaving)
                self._leaving = {}

    def close(self) -> None:
        """Write everything that is left. What cannot be written now is lost, and logged."""
        try:
            self.flush()  # perhaps only a write that was due
            self.flush()
        except Exception:  # whatever it is, the process goes on to its end
            lost = sum([*self._leaving.values(), *self._fresh.values()], Amounts())
            log.exception("usage that cannot be written is lost: %s", lost)

    def _take(self) -> None:
        with self._adding:
            if self._fresh:
                self._leaving, self._fresh = self._fresh, {}
                self._number += 1


class Tally:
    """What one question takes. Told once, at the end of the block, however that comes about.

    It has failed when the block raises an error, or says so; a client that hung up did not fail.

    Example: `with Tally(tell, answers=1) as tally: tally.whole(answer.get("usage"))`.
    """

    def __init__(self, tell: Callable[[Amounts], None], answers: int) -> None:
        self.failed = False
        self._tell = tell
        self._answers = answers
        self._total: Any = {}
        self._prompts: dict[int, dict[str, Any]] = {}
        self._completions: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> "Tally":
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        failed = self.failed or isinstance(error, Exception)
        found = self.usage
        self._tell(Amounts(1, int(failed), found["prompt_tokens"], found["completion_tokens"]))

    def whole(self, found: dict[str, Any] | None) -> None:
        """The usage of the whole answer."""
        self._total = found or {}

    def event(self, event: dict[str, Any]) -> None:
        """One event of a stream. Its usage so far is that of its choices; the last event has that of all."""
        if "error" in event:
            self.failed = True
        elif not event["choices"]:
            self.whole(event.get("usage"))
        elif found := event.get("usage"):
            for choice in event["choices"]:
                # A list of prompts has its answers one prompt after the other.
                self._prompts[choice["index"] // self._answers] = self._completions[choice["index"]] = found

    @property
    def usage(self) -> dict[str, int]:
        """The tokens so far, by their names on the wire."""
        prompt = _tokens(self._total, "prompt_tokens") or sum(
            _tokens(found, "prompt_tokens") for found in self._prompts.values()
        )
        completion = _tokens(self._total, "completion_tokens") or sum(
            _tokens(found, "completion_tokens") for found in self._completions.values()
        )
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _tokens(found: Any, kind: str) -> int:
    value = found.get(kind) if isinstance(found, dict) else None
    return value if isinstance(value, int) else 0
