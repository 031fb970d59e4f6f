"""Live traffic for watches: a share of the answers, noted when they are complete, looked at by a thread of its own.

What waits in memory is bounded; what does not fit is dropped and counted. Nothing here makes an answer wait or fail.
Lines of batches and runs of evals do not come by. Knows no route.
"""

import logging
import random
import threading
import time
from collections import defaultdict
from typing import Any

from rootstock import watch_counts, watches
from rootstock.db import Database
from rootstock.drift import sample
from rootstock.drift.profile import Profile
from rootstock.drift.sample import Sample
from rootstock.errors import RootstockError
from rootstock.telemetry import DRIFT_ALARMS, DRIFT_CALLS
from rootstock.watch_counts import Call, Stale
from rootstock.watches import WatchRecord
from service.wire_inference import ChatRequest, Sampling

log = logging.getLogger(__name__)

MAX_WAITING = 128
"""Calls between two looks, a second or so apart: one takes about a millisecond of a CPU that also answers."""

MAX_PROFILES = 64
"""Kept in memory, half a megabyte each."""


class Sampler:
    """One per process. Let `run_once` run every second or two, and `close` at the end."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._watched: dict[tuple[str, str], list[WatchRecord]] = {}
        self._waiting: list[tuple[str, Call]] = []
        self._dropped: dict[str, int] = defaultdict(int)
        self._profiles: dict[tuple[str, int], Profile] = {}
        self._noting = threading.Lock()
        self._looking = threading.Lock()

    def listen(self, project_id: str, model: str, body: Sampling) -> "Heard | None":
        """What hears the answer of `model` to `body`; `None` where no watch wants it."""
        chosen = [
            watch.id
            for watch in self._watched.get((project_id, model), ())
            if watch.alias in (None, body.model) and random.random() < watch.sample_rate
        ]
        return Heard(self, chosen, body) if chosen else None

    def note(self, chosen: list[str], call: Call) -> None:
        """Keep a call for the next look. Never waits for the database."""
        with self._noting:
            for watch_id in chosen:
                if len(self._waiting) < MAX_WAITING:
                    self._waiting.append((watch_id, call))
                else:
                    self._dropped[watch_id] += 1

    def run_once(self) -> None:
        """Look at what was noted, and at which watches there are by now. Raises `Unavailable`."""
        with self._looking:
            with self._db.read() as tx:
                found = {watch.id: watch for watch in watches.watching(tx)}
            with self._noting:
                waiting, self._waiting = self._waiting, []
                dropped, self._dropped = self._dropped, defaultdict(int)
            watched: dict[tuple[str, str], list[WatchRecord]] = {}
            for watch in found.values():
                watched.setdefault((watch.project_id, watch.model), []).append(watch)
            self._watched = watched
            calls: dict[str, list[Call]] = defaultdict(list)
            for watch_id, call in waiting:
                calls[watch_id].append(call)
            for watch_id in (calls.keys() | dropped.keys()) & found.keys():
                self._count(found[watch_id], calls[watch_id], dropped[watch_id])

    def close(self) -> None:
        """Look at what is left. What cannot be written now is lost: a watch is a sample of the traffic anyway."""
        try:
            self.run_once()
        except Exception:  # whatever it is, the process goes on to its end
            log.exception("the last calls could not be counted by their watches")

    def _count(self, watch: WatchRecord, calls: list[Call], dropped: int) -> None:
        try:
            given = watch_counts.add(self._db, watch, self._profile(watch), calls, dropped)
        except Stale:
            self._profiles.pop((watch.id, watch.generation), None)
            return
        except RootstockError:
            with self._noting:
                self._dropped[watch.id] += len(calls) + dropped
            raise
        DRIFT_CALLS.labels(result="counted").inc(len(calls))
        DRIFT_CALLS.labels(result="dropped").inc(dropped)
        for kind in given:
            DRIFT_ALARMS.labels(kind=kind).inc()
            log.warning("%s: the traffic of %s is not what it was trained on (%s)", watch.id, watch.model, kind)

    def _profile(self, watch: WatchRecord) -> Profile:
        key = (watch.id, watch.generation)
        if key not in self._profiles:
            with self._db.read() as tx:
                read = watch_counts.profile(tx, watch)
            while len(self._profiles) >= MAX_PROFILES:
                del self._profiles[next(iter(self._profiles))]
            self._profiles[key] = read
        return self._profiles[key]


class Heard:
    """One answer that watches want: give it whole, or its events and then `end`. One that breaks off is not noted."""

    def __init__(self, sampler: Sampler, chosen: list[str], body: Sampling) -> None:
        self._sampler = sampler
        self._chosen = chosen
        self._body = body
        self._parts: list[str] = []
        self._chars = 0
        self._calls: dict[int, str] = {}

    def whole(self, answer: dict[str, Any]) -> None:
        """The whole answer. Raises nothing."""
        try:
            (choice, *_) = answer["choices"]
            message = choice.get("message") or {"content": choice.get("text")}
            self._hear(message)
            self._note()
        except Exception:
            log.exception("an answer could not be noted for its watch")

    def event(self, event: dict[str, Any]) -> None:
        """One event of a stream. Raises nothing."""
        try:
            for choice in event.get("choices", ()):
                if choice["index"] == 0:
                    self._hear(choice.get("delta") or {"content": choice.get("text")})
        except Exception:
            log.exception("an answer could not be noted for its watch")

    def end(self) -> None:
        """The stream is complete. Raises nothing."""
        try:
            self._note()
        except Exception:
            log.exception("an answer could not be noted for its watch")

    def _hear(self, piece: dict[str, Any]) -> None:
        text = piece.get("content") or ""
        if self._chars <= sample.MAX_CHARS:  # one more than is looked at tells that there was more
            self._parts.append(text[: sample.MAX_CHARS + 1])
            self._chars += len(self._parts[-1])
        for number, call in enumerate(piece.get("tool_calls") or ()):
            if name := (call.get("function") or {}).get("name"):
                self._calls[call.get("index", number)] = name

    def _note(self) -> None:
        asked = _asked(self._body)
        if asked is not None:
            calls = tuple(self._calls[place] for place in sorted(self._calls))
            found = Sample.of(*asked, "".join(self._parts), calls)
            self._sampler.note(self._chosen, Call(found, time.time()))


def _asked(body: Sampling) -> tuple[str, str] | None:
    """The prompt and the system prompt; `None` for a list of prompts and for token ids."""
    if isinstance(body, ChatRequest):
        said = body.messages
        user = next((message.content for message in reversed(said) if message.role == "user"), "")
        system = [sample.text(message.content) for message in said if message.role in ("system", "developer")]
        return sample.text(user), "\n".join(system)
    prompt = getattr(body, "prompt", None)
    return (prompt, "") if isinstance(prompt, str) else None
