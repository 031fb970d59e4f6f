"""How many inference requests of one project may be under way in this process at a time.

A project that opens thousands of streams would hold memory, sockets and the engine's queue for all the others. Knows
projects and numbers; nothing about routes or models. For one event loop.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

from rootstock.errors import RateLimited
from rootstock.records import Caller


class Slots:
    """The requests under way, by project; 0 for `limit` lets in any number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, caller: Caller, model: str) -> Iterator[None]:
        """A slot for the length of the block. Raises `RateLimited` when all are taken."""
        project = caller.project_id
        if self._limit and self._taken[project] >= self._limit:
            where = f"for {model[:256]} in organization {caller.organization_id} on concurrent requests"
            raise RateLimited(
                f"Rate limit reached {where}: Limit {self._limit}, Used {self._taken[project]}, Requested 1. "
                "Please try again in 1s."
            )
        self._taken[project] += 1
        try:
            yield
        finally:
            self._taken[project] -= 1
            if not self._taken[project]:
                del self._taken[project]  # projects come and go; what is zero needs no memory
