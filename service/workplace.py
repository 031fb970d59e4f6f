"""What a worker process has at hand for every piece of work, of whatever kind. Knows no kind."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rootstock.db import Database, Tx
from rootstock.errors import Unavailable
from rootstock.settings import Settings
from rootstock.storage import Store
from service.replicas import Upstream

log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_WAIT_SECONDS = 2.0


class HandBack(Exception):
    """This process is asked to stop, or it is other work's turn."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a worker process has at hand for every piece of work."""

    settings: Settings
    db: Database
    store: Store
    upstream: Upstream
    leaving: Callable[[], bool]
    turn_seconds: float = 120.0
    """After this long other work that waits gets its turn, so that a long piece holds up nobody for hours."""
    first_wait_seconds: float = 1.0
    waits: Callable[[Tx], bool] = lambda _: False
    """Whether other work, of any kind, waits for a worker."""

    async def patient(self, work: Callable[[], T]) -> T:
        """Something with the store or the database, in a thread, again and again while they are away.

        Raises `HandBack` when this process is asked to stop meanwhile.
        """
        while True:
            try:
                return await asyncio.to_thread(work)
            except Unavailable as error:
                log.warning("trying again in %.0f s: %s", STORE_WAIT_SECONDS, error)
            await asyncio.sleep(STORE_WAIT_SECONDS)
            if self.leaving():
                raise HandBack
