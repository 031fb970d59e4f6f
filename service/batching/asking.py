"""One line of a batch put to the model, with patience: what passes is waited for, what lasts becomes the line's error.

The same checks, the same way to vLLM and the same shapes as for an interactive request. Knows no database.
"""

import asyncio
import logging
import random
from typing import Any

from rootstock.errors import InvalidValue, NotFound, RateLimited, RootstockError, ServerError, Unavailable
from rootstock.records import BatchResult, Caller
from service.batching.writing import answered
from service.deps import fit, parse
from service.gateway import KINDS, Gateway, Kind
from service.wire_batches import BatchLine
from service.wire_inference import Sampling

log = logging.getLogger(__name__)

TRIES = 10
"""How often a line is put to an engine that says it is well, before its refusal is taken to be about the line."""

MAX_WAIT_SECONDS = 30.0


class Asker:
    """Asks for one project's lines. `first_wait_seconds` is doubled after each try."""

    def __init__(self, gateway: Gateway, caller: Caller, first_wait_seconds: float = 1.0) -> None:
        self._gateway = gateway
        self._caller = caller
        self._first_wait = first_wait_seconds
        self._looking = asyncio.Lock()

    async def answer(self, endpoint: str, number: int, data: bytes) -> BatchResult:
        """What becomes of a line that was judged good before; always something."""
        line = parse(BatchLine, data)
        question = None
        try:
            kind = KINDS[endpoint]
            question = _body(kind, line.body)
            body = await self.patiently(kind, question)
        except RootstockError as error:
            asked = question is not None and not isinstance(error, NotFound)
            return _failed(number, line, error, asked=asked)
        except Exception:  # whatever it is, it must cost this line only, and its text is no customer's business
            log.exception("line %d failed for a reason of ours", number)
            return _failed(number, line, ServerError())
        return BatchResult(number, ok=True, body=answered(line.custom_id, 200, body), usage=_usage(body.get("usage")))

    async def patiently(self, kind: Kind, body: Sampling) -> dict[str, Any]:
        """The answer, however long the engine is away. Raises what lasts, and what a well engine says `TRIES` times."""
        tries = 0
        while True:
            try:
                return await self._gateway.complete(kind, body, self._caller)
            except (Unavailable, RateLimited) as error:
                tries += 1
                if tries == TRIES:
                    raise
                log.info("try %d of a line: %s", tries, error.message)
            wait = min(MAX_WAIT_SECONDS, self._first_wait * 2 ** (tries - 1))
            await asyncio.sleep(wait * random.uniform(0.75, 1.0))  # so that not all lines come back at once
            await self._engine_is_there(body.model)

    async def _engine_is_there(self, model: str) -> None:
        """Wait for as long as it takes: the time that an engine is away is counted against no line."""
        async with self._looking:
            while not await self._gateway.alive(self._caller, model):  # noqa: ASYNC110 (nothing tells us, we have to look)
                await asyncio.sleep(self._first_wait)


def _body(kind: Kind, body: dict[str, Any]) -> Sampling:
    checked = fit(kind.request, body)
    if checked.stream:
        raise InvalidValue("Invalid 'stream': a batch cannot stream its answers.", param="stream")
    return checked


def _failed(number: int, line: BatchLine, error: RootstockError, *, asked: bool = True) -> BatchResult:
    return BatchResult(number, ok=False, body=answered(line.custom_id, error.status, error.body()), asked=asked)


def _usage(found: dict[str, Any] | None) -> dict[str, int]:
    counts = found or {}
    return {
        "input_tokens": counts.get("prompt_tokens", 0),
        "cached_tokens": (counts.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        "output_tokens": counts.get("completion_tokens", 0),
        "total_tokens": counts.get("total_tokens", 0),
    }
