"""The process that puts much to vLLM: claim a batch (or other work of its kinds), live it, until told to stop.

The table is looked at when the bell rings, after each batch, and every few seconds anyway: a lost bell costs only time.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from rootstock import batches
from rootstock.bell import BATCHES
from rootstock.db import Database
from rootstock.doorbell import Doorbell
from rootstock.errors import ConfigurationError, Unavailable
from rootstock.records import BatchRecord
from rootstock.settings import Settings
from rootstock.storage import open_store
from service.batching.life import Workplace, live
from service.distilling.life import take as take_distillation
from service.evaluating.life import take as take_run
from service.releasing.taking import take_release
from service.replicas import Upstream

log = logging.getLogger(__name__)


def work(settings: Settings) -> None:
    """Answer batches until a signal says to leave; returns then.

    Raises `ConfigurationError` when there is no vLLM to ask.
    """
    if settings.vllm_url is None and not settings.more_vllm_urls:
        raise ConfigurationError("ROOTSTOCK_VLLM_URL is not set: a batch worker needs a vLLM to put its lines to.")
    db = Database(settings.effective_database_url)
    try:
        db.wait_until_migrated()
        asyncio.run(_work(settings, db))
    finally:
        db.close()
    log.info("stopped")


async def _work(settings: Settings, db: Database) -> None:
    leaving, wake = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if leaving.is_set():
            os._exit(128 + number)
        leaving.set()
        wake.set()

    def ring() -> None:
        loop.call_soon_threadsafe(wake.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    doorbell = Doorbell(settings.effective_redis_url, BATCHES, ring)
    doorbell.start()
    upstream = Upstream(settings)
    place = Workplace(settings, db, open_store(settings), upstream, leaving.is_set)
    name = f"{socket.gethostname()}:{os.getpid()}"
    log.info("ready: puts %d lines of batches at a time to vLLM", settings.batch_concurrency)
    try:
        while not leaving.is_set():
            wake.clear()
            worked = False
            for take in WORK:
                worked = await take(place, name) or worked
            if not worked:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), settings.poll_seconds)
    finally:
        await asyncio.to_thread(doorbell.leave)
        await upstream.aclose()


async def _take_batch(place: Workplace, worker: str) -> bool:
    batch = await asyncio.to_thread(_claim, place, worker)
    if batch is not None:
        await live(place, batch)
    return batch is not None


def _claim(place: Workplace, worker: str) -> BatchRecord | None:
    try:
        with place.db.transaction() as tx:
            return batches.claim(tx, worker=worker, lease_seconds=place.settings.lease_seconds)
    except Unavailable:
        return None  # logged where it happened; the next look comes by itself


WORK: tuple[Callable[[Workplace, str], Awaitable[bool]], ...] = (_take_batch, take_release, take_distillation, take_run)
"""What this process does, in turn: each claims one piece of its kind and lives it; false when none waits."""
