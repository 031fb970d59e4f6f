"""Counters of fixed windows of a minute: in Redis, shared by all processes, or of this process alone.

Only what is let in counts, so one request that is too large does not use up the minute for the others. What is asked
for together is looked at and counted in one step, in Redis too: its script is one round trip. Knows keys and numbers.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

WINDOW_SECONDS = 60

_SCRIPT = """
local counted = {}
for i, key in ipairs(KEYS) do
  local limit, cost = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local used = tonumber(redis.call('GET', key) or '0')
  local fits = limit < 0 or used + cost <= limit
  if fits then
    used = redis.call('INCRBY', key, cost)
    if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, ARGV[1]) end
  end
  counted[i] = {used, math.max(redis.call('PTTL', key), 0), fits and 0 or 1}
  if not fits then break end
end
return counted
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """`cost` more of a counter that goes up to `limit`; without a limit it is counted in any case."""

    key: str
    cost: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Count:
    """A counter as it stands: how much is used of its window, which ends in so many seconds."""

    used: int
    resets_in: float
    refused: bool


class Windows(Protocol):
    """Counters, wherever they are."""

    async def take(self, asks: Sequence[Ask]) -> list[Count]:
        """Count what is asked for, in this order, up to the first that does not fit; one count for each looked at."""

    async def aclose(self) -> None:
        """Let go of what is held."""


class OwnWindows:
    """Counters of this process, used by its event loop only."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}  # key -> used, end of its window

    async def take(self, asks: Sequence[Ask]) -> list[Count]:
        """See `Windows`."""
        now = time.monotonic()
        counted = []
        for ask in asks:
            used, ends = self._counts.get(ask.key, (0, 0.0))
            if ends <= now:
                used, ends = 0, now + WINDOW_SECONDS
            fits = ask.limit is None or used + ask.cost <= ask.limit
            if fits:
                used += ask.cost
                self._counts[ask.key] = (used, ends)
            counted.append(Count(used, ends - now, not fits))
            if not fits:
                break
        return counted

    async def aclose(self) -> None:
        """Nothing is held."""


class SharedWindows:
    """Counters in Redis. `take` raises `RedisError` or `OSError` when it does not answer within `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        # No retries: a request waits meanwhile, and there is somewhere else to count.
        self._redis = redis.Redis.from_url(
            url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0)
        )
        self._script = self._redis.register_script(_SCRIPT)

    async def take(self, asks: Sequence[Ask]) -> list[Count]:
        """See `Windows`."""
        arguments = [int(WINDOW_SECONDS * 1000)]
        for ask in asks:
            arguments += [-1 if ask.limit is None else ask.limit, ask.cost]
        answer = cast(list[list[Any]], await self._script(keys=[_name(ask.key) for ask in asks], args=arguments))
        return [Count(int(used), int(left) / 1000, bool(refused)) for used, left, refused in answer]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _name(key: str) -> str:
    # All counters of one owner lie in one slot of a cluster, as a script's keys have to.
    owner, _, kind = key.rpartition("/")
    return f"rootstock-limits:{{{owner}}}/{kind}"
