"""Whose turn it is: more adapters want to run than one batch of vLLM has slots.

vLLM lets requests for the adapters in its slots overtake all others, so under steady traffic for a few of them another
would wait for ever. Here it waits a bounded time: then nobody overtakes it any more, a slot drains, and it is let in.
Pure bookkeeping with the time given; knows no HTTP and no vLLM.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 0.5
"""How long requests for adapters that run already may overtake one that waits for a slot."""


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """A request that waits, and since when."""

    adapter: str
    since: float
    ticket: T


class Turns(Generic[T]):
    """Tickets in, tickets out. `slots` adapters run at a time; each as many requests as there are.

    Example: `if not turns.enter("lora-a", ticket, now): await ticket`, and in the end `turns.leave("lora-a", now)`.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: dict[str, int] = {}
        self._waiting: deque[Waiting[T]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def running(self) -> dict[str, int]:
        """Requests under way, by adapter: at most `slots` adapters."""
        return dict(self._running)

    def enter(self, adapter: str, ticket: T, now: float) -> bool:
        """Whether a request may go on at once; otherwise its ticket is given out later."""
        if self._may(adapter, now):
            self._admit(adapter)
            return True
        self._waiting.append(Waiting(adapter, now, ticket))
        return False

    def leave(self, adapter: str, now: float) -> list[T]:
        """A request that was let in is over; the tickets of those whose turn it is now."""
        self._running[adapter] -= 1
        if not self._running[adapter]:
            del self._running[adapter]
        return self._next(now)

    def give_up(self, ticket: T, now: float) -> list[T]:
        """A request that waits does so no longer; the tickets of those whose turn it is now."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting.ticket is not ticket)
        return self._next(now)

    def _next(self, now: float) -> list[T]:
        admitted = []
        rest: deque[Waiting[T]] = deque()
        stuck = False  # somebody further ahead has waited too long to be overtaken
        for waiting in self._waiting:
            if not stuck and (waiting.adapter in self._running or len(self._running) < self._slots):
                self._admit(waiting.adapter)
                admitted.append(waiting.ticket)
                continue
            stuck = stuck or now - waiting.since > PATIENCE_SECONDS
            rest.append(waiting)
        self._waiting = rest
        return admitted

    def _may(self, adapter: str, now: float) -> bool:
        if adapter in self._running:
            return not self._waiting or now - self._waiting[0].since <= PATIENCE_SECONDS
        return not self._waiting and len(self._running) < self._slots

    def _admit(self, adapter: str) -> None:
        self._running[adapter] = self._running.get(adapter, 0) + 1
