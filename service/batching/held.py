"""A claimed row stays ours: the lease is renewed, and every write goes through here. Knows no kind of work."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from rootstock.db import Database, Tx
from rootstock.errors import LeaseLost, Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")


class Claimed(Protocol):
    """A record of a row that a worker claims."""

    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Claimed)

Write = Callable[[Tx, R, Sequence[Any]], R]
"""Renews the lease of a row and stores some results of its work; the row as it is then. Raises `LeaseLost`."""

MAX_WAIT_SECONDS = 5.0


class Held(Generic[R]):
    """One claimed row; `record` is what it was when last looked at, which is never long ago."""

    def __init__(
        self, db: Database, record: R, write: Write[R], *, lease_seconds: float, heartbeat_seconds: float
    ) -> None:
        self.record = record
        self._db = db
        self._write = write
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._renewed_at = time.monotonic()
        self._one_at_a_time = asyncio.Lock()

    async def keep(self) -> NoReturn:
        """Renew the lease until cancelled. Raises `LeaseLost`."""
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            await self.store([])

    async def store(self, results: Sequence[Any]) -> None:
        """Commit some results, and see how the row stands. Raises `LeaseLost`."""
        began = time.monotonic()
        async with self._one_at_a_time:
            self.record = await self._insist(lambda tx: self._write(tx, self.record, results))
            self._renewed_at = began

    async def move(self, how: Callable[[Tx], R | None]) -> None:
        """Make a move; when the row has moved elsewhere meanwhile, see where. Raises `LeaseLost`."""
        async with self._one_at_a_time:
            moved = await self._insist(how)
            self.record = moved or self.record
        if moved is None:
            await self.store([])

    async def act(self, work: Callable[[Tx], T]) -> T:
        """One transaction, tried again while the database is away and the row still ours. Raises `LeaseLost`."""
        async with self._one_at_a_time:
            return await self._insist(work)

    async def _insist(self, work: Callable[[Tx], T]) -> T:
        wait = 0.2
        while True:
            try:
                return await asyncio.to_thread(self._transact, work)
            except Unavailable as error:
                if time.monotonic() - self._renewed_at > self._lease_seconds:
                    raise LeaseLost(f"{self.record.id} was lost: the database is away.") from error
                log.warning("trying again in %.1f s: %s", wait, error)
            await asyncio.sleep(wait)
            wait = min(MAX_WAIT_SECONDS, 2 * wait)

    def _transact(self, work: Callable[[Tx], T]) -> T:
        with self._db.transaction() as tx:
            return work(tx)
