"""How many inference requests of one project may be under way in this process at a time.

A project that opens thousands of streams would hold memory, sockets and the engine's queue for all the others. Knows
projects and numbers; nothing about routes or models. For one event loop.
"""

from collections import Counter

from rootstock.errors import RateLimited
from rootstock.records import Caller


class Slots:
    """The requests under way, by project; 0 for `limit` lets in any number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: Counter[str] = Counter()

    def one(self, caller: Caller, model: str) -> "Slot":
        """A slot that is taken now. Raises `RateLimited` when all are."""
        project = caller.project_id
        if self._limit and self._taken[project] >= self._limit:
            where = f"for {model[:256]} in organization {caller.organization_id} on concurrent requests"
            raise RateLimited(
                f"Rate limit reached {where}: Limit {self._limit}, Used {self._taken[project]}, Requested 1. "
                "Please try again in 1s."
            )
        self._taken[project] += 1
        return Slot(self._taken, project)


class Slot:
    """A slot for the length of a block, or for longer when that keeps it: then `close` gives it back."""

    def __init__(self, taken: Counter[str], project: str) -> None:
        self._taken: Counter[str] | None = taken
        self._project = project
        self.kept = False

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.close()

    def keep(self) -> None:
        """Do not give it back at the end of the block."""
        self.kept = True

    def close(self) -> None:
        """Give it back. Once is enough."""
        taken, self._taken = self._taken, None
        if taken is None:
            return
        taken[self._project] -= 1
        if not taken[self._project]:
            del taken[self._project]  # projects come and go; what is zero needs no memory
