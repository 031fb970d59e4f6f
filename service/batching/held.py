"""A claimed batch stays ours: the lease is renewed, and every write goes through here. Knows nothing about lines."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from rootstock import batches
from rootstock.db import Database, Tx
from rootstock.errors import LeaseLost, Unavailable
from rootstock.records import BatchRecord, BatchResult

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_WAIT_SECONDS = 5.0


class Held:
    """One claimed batch; `batch` is what it was when last looked at, which is never long ago."""

    def __init__(self, db: Database, batch: BatchRecord, *, lease_seconds: float, heartbeat_seconds: float) -> None:
        self.batch = batch
        self._db = db
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._renewed_at = time.monotonic()
        self._one_at_a_time = asyncio.Lock()

    async def keep(self) -> NoReturn:
        """Renew the lease until cancelled. Raises `LeaseLost`."""
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            await self.store([])

    async def store(self, results: Sequence[BatchResult]) -> None:
        """Commit some results, and see how the batch stands. Raises `LeaseLost`."""

        def write(tx: Tx) -> BatchRecord:
            return batches.write(tx, self.batch, results, lease_seconds=self._lease_seconds)

        began = time.monotonic()
        async with self._one_at_a_time:
            self.batch = await self._insist(write)
            self._renewed_at = began

    async def move(self, how: Callable[[Tx], BatchRecord | None]) -> None:
        """Make a move; when the batch has moved elsewhere meanwhile, see where. Raises `LeaseLost`."""
        async with self._one_at_a_time:
            moved = await self._insist(how)
            self.batch = moved or self.batch
        if moved is None:
            await self.store([])

    async def act(self, work: Callable[[Tx], T]) -> T:
        """One transaction, tried again while the database is away and the batch still ours. Raises `LeaseLost`."""
        async with self._one_at_a_time:
            return await self._insist(work)

    async def _insist(self, work: Callable[[Tx], T]) -> T:
        wait = 0.2
        while True:
            try:
                return await asyncio.to_thread(self._transact, work)
            except Unavailable as error:
                if time.monotonic() - self._renewed_at > self._lease_seconds:
                    raise LeaseLost(f"Batch {self.batch.id} was lost: the database is away.") from error
                log.warning("trying again in %.1f s: %s", wait, error)
            await asyncio.sleep(wait)
            wait = min(MAX_WAIT_SECONDS, 2 * wait)

    def _transact(self, work: Callable[[Tx], T]) -> T:
        with self._db.transaction() as tx:
            return work(tx)
