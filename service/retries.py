"""Repeated requests without an `Idempotency-Key`: an SDK that lost an answer says in a header that it asks again.

Knows nothing about what is created.
"""

import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from starlette.requests import Request


class Dated(Protocol):
    """Any record with a time of creation."""

    @property
    def created_at(self) -> float: ...


D = TypeVar("D", bound=Dated)

WINDOW_SECONDS = 600
LOOK_BACK = 20
"""How many of the newest things are compared."""


def earlier(request: Request, newest: Callable[[], Iterable[D]], same: Callable[[D], bool]) -> D | None:
    """What an earlier attempt of this request has made: its answer was lost, and doing it twice costs a GPU twice.

    `newest` gives the caller's latest things, `same` says whether one is what is asked for.
    """
    if request.headers.get("x-stainless-retry-count", "0") in ("", "0"):
        return None
    return next((one for one in newest() if time.time() - one.created_at < WINDOW_SECONDS and same(one)), None)
