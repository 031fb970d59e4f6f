"""Adding up calls until an event has clearly become more frequent than its bound: a CUSUM of bets for each event.

After each call an event's score rises by log(q1/q0) when the call shows it and falls by log((1-q0)/(1-q1)) when not,
never below 0 (Page, 1954): q0 is the bound, q1 = q0 + `STEP` of the rest. From any call on, exp(score) is at most
a fair game's fortune while the true rate is at most q0, so by Ville's inequality it exceeds exp(h) with a chance of
at most exp(-h); over all starts within n calls and all m events that is n m exp(-h) (Shin, Ramdas, Rinaldo, 2023,
"E-detectors"). h is set so that this is `FALSE` for `QUIET` calls. Knows no texts.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rootstock.drift.bounds import lower, upper
from rootstock.drift.features import Floats
from rootstock.drift.profile import GROUP, KINDS, Event, Marks

QUIET = 10_000
FALSE = 0.001
STEP = 0.08
WINDOW = 200
"""Calls of one point of the plot."""

MOST_POINTS = 240
CONFIDENCE = 0.95
LEAST_ACCEPTED = 200
"""Calls without which the present traffic cannot become the reference."""


@dataclass(frozen=True, slots=True)
class Shift:
    """An event that has become too frequent: how frequent (with an interval), in the calls since it probably began."""

    kind: str
    event: str
    reference: float
    rate: float
    low: float
    high: float
    calls: int
    began_at: float
    related: tuple[int, ...]  # places of the events of this kind that have risen with it


@dataclass
class State:
    """What is kept between calls; `pack` and `unpack` make bytes of it. All arrays have a place for each event."""

    bounds: Floats
    scores: Floats
    trials: Floats
    hits: Floats
    began: Floats
    window_trials: Floats
    window_hits: Floats
    recent_trials: Floats
    recent_hits: Floats
    calls: int = 0
    window_calls: int = 0
    points: list[dict[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)  # kinds that have given their alarm

    @classmethod
    def new(cls, events: Sequence[Event]) -> "State":
        """Before the first call."""
        arrays = {name: np.zeros(len(events)) for name in _ARRAYS}
        return cls(**arrays | {"bounds": np.array([event.bound for event in events])})

    def pack(self) -> bytes:
        """As bytes: arrays and JSON. Most scores are 0 at any time, so it is a few kilobytes."""
        out = io.BytesIO()
        told = json.dumps({name: getattr(self, name) for name in _REST}).encode()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez_compressed(out, told=np.frombuffer(told, dtype=np.uint8), **arrays)
        return out.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> "State":
        """What `pack` made."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return cls(**{name: found[name] for name in _ARRAYS}, **json.loads(found["told"].tobytes()))


_ARRAYS = tuple(name for name, kind in State.__annotations__.items() if kind is Floats)
_REST = tuple(name for name in State.__annotations__ if name not in _ARRAYS)


def threshold(events: int) -> float:
    """h, in nats: the score that no event may reach."""
    return math.log(QUIET * max(1, events) / FALSE)


def advance(state: State, events: Sequence[Event], marks: Marks, at: float) -> list[Shift]:
    """Add one call that was at `at` (Unix seconds). Returns what it made clear: at most one shift of each kind."""
    hit, known = marks == 1, marks >= 0
    base = np.clip(state.bounds, 1e-4, 1.0 - 1e-9)
    bet = base + STEP * (1.0 - base)
    gain = np.where(hit, np.log(bet / base), np.log((1.0 - bet) / (1.0 - base)))
    starts = known & (state.scores == 0.0)
    state.began[starts] = at
    state.scores = np.maximum(0.0, state.scores + np.where(known, gain, 0.0))
    alive = state.scores > 0.0
    state.trials = np.where(alive, state.trials + known, 0.0)
    state.hits = np.where(alive, state.hits + hit, 0.0)
    state.calls += 1
    _window(state, events, hit, known, at)
    if not np.any(state.scores >= threshold(len(events))):
        return []
    return [shift for kind in KINDS if kind not in state.silent for shift in _shifts(state, events, kind)]


def rearm(state: State, events: Sequence[Event], *, accept: bool) -> None:
    """Let all kinds give alarms again. With `accept` the rates of the latest calls are as good as the set's.

    Raises `ValueError` where those are too few.
    """
    if accept:
        trials, hits = state.recent_trials, state.recent_hits
        if state.calls < LEAST_ACCEPTED or not np.any(trials >= LEAST_ACCEPTED):
            raise ValueError(f"only {int(trials.max(initial=0.0))} calls were seen lately; {LEAST_ACCEPTED} are needed")
        seen = [upper(h, t, 1e-4) if t else 0.0 for h, t in zip(hits, trials, strict=True)]
        state.bounds = np.maximum(state.bounds, seen)
    for name in ("scores", "trials", "hits", "began"):
        setattr(state, name, np.zeros(len(events)))
    state.silent = []


def excess(events: Sequence[Event], hits: Floats, trials: Floats) -> dict[str, float]:
    """For each kind that is watched: by how much its most exceeding event is more frequent than in the set."""
    # Of a thousand groups of words some are always a bit more frequent: only what is beyond the bound says anything.
    rates = np.array([event.bound if event.name.startswith(GROUP) else event.rate for event in events])
    over = np.where(trials > 0, hits / np.maximum(trials, 1.0) - rates, 0.0)
    found: dict[str, float] = {}
    for event, value in zip(events, over, strict=True):
        found[event.kind] = max(found.get(event.kind, 0.0), round(float(value), 4))
    return found


def _shifts(state: State, events: Sequence[Event], kind: str) -> list[Shift]:
    places = [place for place, event in enumerate(events) if event.kind == kind]
    limit = threshold(len(events))
    first = max(places, key=lambda place: state.scores[place], default=None)
    if first is None or state.scores[first] < limit:
        return []
    state.silent.append(kind)
    hits, trials, miss = state.hits[first], state.trials[first], (1.0 - CONFIDENCE) / 2
    return [
        Shift(
            kind=kind,
            event=events[first].name,
            reference=events[first].rate,
            rate=float(hits / trials),
            low=lower(hits, trials, miss),
            high=upper(hits, trials, miss),
            calls=int(trials),
            began_at=float(state.began[first]),
            related=tuple(place for place in places if state.scores[place] >= limit / 3),
        )
    ]


def _window(state: State, events: Sequence[Event], hit: Any, known: Any, at: float) -> None:
    state.window_hits += hit
    state.window_trials += known
    state.window_calls += 1
    if state.window_calls < WINDOW:
        return
    told = {"at": at, "calls": state.calls} | excess(events, state.window_hits, state.window_trials)
    state.points = [*state.points, told][-MOST_POINTS:]
    state.recent_hits, state.recent_trials = state.window_hits, state.window_trials
    state.window_hits, state.window_trials = np.zeros(len(events)), np.zeros(len(events))
    state.window_calls = 0
