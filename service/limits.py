"""How much one project may ask for: inference requests, tokens and uploads in a minute, inference requests at a time.

Fixed windows of a minute, counted in Redis so that several API processes share them, in this process while Redis is
away (`service.windows`): a limiter that is down refuses nobody. Requests at a time are each process's own
(`service.slots`). Knows projects and numbers; nothing about routes or models.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from redis.exceptions import RedisError

from rootstock.errors import RateLimited, TokensLimited
from rootstock.records import Caller
from rootstock.settings import Settings
from service.slots import Slot, Slots
from service.windows import WINDOW_SECONDS, Ask, OwnWindows, SharedWindows

log = logging.getLogger(__name__)

SHARED_SECONDS = 0.5
"""A slow Redis may hold up a request for this long."""

SHARED_AGAIN_SECONDS = 10.0
"""So long nobody asks a Redis that did not answer."""

CHARACTERS_PER_TOKEN = 4

_NAMES = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)", "uploads": "uploads per min"}


@dataclass(frozen=True, slots=True)
class Window:
    """One counter as it stands after a request was counted, or refused."""

    kind: str
    limit: int
    used: int
    resets_in: float
    """Seconds."""

    refused: bool

    @property
    def retry_after_seconds(self) -> int:
        """When to come back: whole seconds, 1 to 60."""
        return min(WINDOW_SECONDS, max(1, math.ceil(self.resets_in)))

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-{limit,remaining,reset}-{kind}`."""
        remaining = min(self.limit, max(0, self.limit - self.used))
        values = {"limit": self.limit, "remaining": remaining, "reset": duration(self.retry_after_seconds)}
        return {f"x-ratelimit-{name}-{self.kind}": str(value) for name, value in values.items()}


class Limits:
    """The counters. One per process; without `redis_url` it counts for itself."""

    def __init__(self, settings: Settings, redis_url: str | None) -> None:
        self._limits = {
            "requests": settings.requests_per_minute,
            "tokens": settings.tokens_per_minute,
            "uploads": settings.uploads_per_minute,
        }
        self._slots = Slots(settings.concurrent_requests)
        self._own = OwnWindows()
        self._shared = SharedWindows(redis_url, SHARED_SECONDS) if redis_url else None
        self._shared_again_at = 0.0

    async def aclose(self) -> None:
        """Let go of the connections."""
        if self._shared is not None:
            await self._shared.aclose()

    def slot(self, caller: Caller, model: str) -> Slot:
        """One of the requests that the project may have under way here: taken now, until it is closed.

        Raises `RateLimited`. Take it before `inference`: what is refused here uses up nothing of the minute.
        """
        return self._slots.one(caller, model)

    async def inference(self, caller: Caller, model: str, tokens: int) -> dict[str, str]:
        """Count one request of about `tokens`; the headers that tell what is left (none for what is not limited).

        Raises `RateLimited` or `TokensLimited`, with those headers.
        """
        costs = {"requests": 1, "tokens": max(1, tokens)}
        headers: dict[str, str] = {}
        for window in await self._take(caller, costs):
            headers |= window.headers()
            if window.refused:
                raise _refusal(window, costs[window.kind], f"for {model[:256]} ", caller, headers)
        return headers

    async def upload(self, caller: Caller) -> None:
        """Count one upload.

        Raises `RateLimited`.
        """
        for window in await self._take(caller, {"uploads": 1}):
            if window.refused:
                raise _refusal(window, 1, "", caller, {})

    async def spent(self, caller: Caller, tokens: int, usage: Mapping[str, Any] | None) -> None:
        """Count what an answer took beyond the `tokens` that were counted before it. Never refuses."""
        more = ((usage or {}).get("total_tokens") or 0) - max(1, tokens)
        if more > 0:
            await self._take(caller, {"tokens": more}, forced=True)

    async def _take(self, caller: Caller, costs: Mapping[str, int], *, forced: bool = False) -> list[Window]:
        """Count what is limited (`forced`: in any case). The windows as they then stand; the last may refuse."""
        kinds = [kind for kind in costs if self._limits[kind]]
        if not kinds:
            return []
        asks = [
            Ask(f"{caller.project_id}/{kind}", costs[kind], None if forced else self._limits[kind]) for kind in kinds
        ]
        counts = None
        if self._shared is not None and time.monotonic() >= self._shared_again_at:
            try:
                async with asyncio.timeout(SHARED_SECONDS):
                    counts = await self._shared.take(asks)
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("rate limits are counted in this process only, Redis is away: %s", type(error).__name__)
                self._shared_again_at = time.monotonic() + SHARED_AGAIN_SECONDS
        if counts is None:
            counts = await self._own.take(asks)
        told = zip(kinds, counts, strict=False)  # what comes after a refusal was not looked at
        return [Window(kind, self._limits[kind], one.used, one.resets_in, one.refused) for kind, one in told]


def estimate(prompt: Any, answer_tokens: int = 0) -> int:
    """About how many tokens a request takes: four characters each, a token id for one, plus the longest answer.

    Example: `estimate([{"role": "user", "content": "Hi there"}], 16)` is 19.
    """
    return math.ceil(_characters(prompt) / CHARACTERS_PER_TOKEN) + answer_tokens


def duration(seconds: int) -> str:
    """Seconds as the headers write them.

    Example: `duration(1)` is `1s`, `duration(360)` is `6m0s`.
    """
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _refusal(window: Window, cost: int, what: str, caller: Caller, headers: dict[str, str]) -> RateLimited:
    error = TokensLimited if window.kind == "tokens" else RateLimited
    where = f"{what}in organization {caller.organization_id} on {_NAMES[window.kind]}"
    if cost > window.limit:
        refused = error(f"Request too large {where}: Limit {window.limit}, Requested {cost}.", should_retry=False)
    else:
        refused = error(
            f"Rate limit reached {where}: Limit {window.limit}, Used {max(0, window.used)}, Requested {cost}. "
            f"Please try again in {duration(window.retry_after_seconds)}.",
            retry_after_seconds=window.retry_after_seconds,
        )
    refused.headers = headers
    return refused


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(_characters(inner) for inner in value)
    if isinstance(value, BaseModel):
        return _characters(vars(value))
    return CHARACTERS_PER_TOKEN if isinstance(value, int) and not isinstance(value, bool) else 0
