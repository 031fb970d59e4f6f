"""A taker of the batch worker: claims a release that waits and lives it. Knows nothing about measuring."""

import asyncio

from rootstock import releases
from rootstock.errors import Unavailable
from rootstock.releases import Release
from service.batching.life import Workplace
from service.releasing.measuring import live


async def take_release(place: Workplace, worker: str) -> bool:
    """Bring one release a step further; false when none waits."""
    release = await asyncio.to_thread(_claim, place, worker)
    if release is not None:
        await live(place, release)
    return release is not None


def _claim(place: Workplace, worker: str) -> Release | None:
    try:
        with place.db.transaction() as tx:
            return releases.claim(tx, worker=worker, lease_seconds=place.settings.lease_seconds)
    except Unavailable:
        return None  # logged where it happened; the next look comes by itself
