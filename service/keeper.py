"""Keeps the answers of requests that say `store`. An answer never waits long for it and never fails because of it.

Knows no route and nothing of how an answer is made.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from rootstock import completions
from rootstock.db import Database
from rootstock.records import Caller
from service.assembly import Assembly
from service.wire_inference import ChatRequest

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""For one short transaction. A database that takes longer finishes behind the answer's back."""

MAX_CHARS = 4 * 1024 * 1024
"""Of question and answer as JSON. A list reads a hundred of them at once, so a larger one is not kept."""

_under_way: set[asyncio.Future[None]] = set()


class Keeper:
    """For one request: give it the whole answer, or every chunk of it and then `finish`."""

    def __init__(self, database: Database, caller: Caller, body: ChatRequest, request_id: str) -> None:
        self._db = database
        self._project_id = caller.project_id
        self._body = body
        self._request_id = request_id
        self._chunks: list[tuple[dict[str, Any], dict[str, Any] | None]] = []

    def add(self, chunk: dict[str, Any], usage: dict[str, Any] | None) -> None:
        """One chunk of a streamed answer, in order."""
        self._chunks.append((chunk, usage))

    async def finish(self) -> None:
        """The streamed answer is complete: keep it."""
        await self._within_patience(self._keep_chunks)

    async def keep(self, answer: dict[str, Any]) -> None:
        """Keep a whole answer. Returns after `PATIENCE_SECONDS` at the latest and raises nothing."""
        await self._within_patience(lambda: self._keep(answer))

    async def _within_patience(self, work: Callable[[], None]) -> None:
        task = asyncio.ensure_future(run_in_threadpool(self._quietly, work))
        _under_way.add(task)
        task.add_done_callback(_under_way.discard)
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)

    def _quietly(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            log.exception("the answer to %s could not be stored", self._request_id)

    def _keep_chunks(self) -> None:
        assembly = Assembly()
        for chunk, usage in self._chunks:
            assembly.add(chunk, usage)
        self._keep(assembly.whole())

    def _keep(self, answer: dict[str, Any]) -> None:
        request = self._body.model_dump(exclude_none=True, by_alias=True, exclude=_not_kept(self._body))
        if len(json.dumps(request)) + len(json.dumps(answer)) > MAX_CHARS:
            log.warning("the answer to %s is not stored: with its question it is too large", self._request_id)
            return
        with self._db.transaction() as tx:
            completions.keep(
                tx,
                self._project_id,
                request_id=self._request_id,
                request=request,
                response=answer,
                metadata=self._body.metadata,
            )


def _not_kept(body: ChatRequest) -> dict[str, Any]:
    # What the model never saw is as long as its sender likes, and nobody is shown it again; `user` is the exception.
    names = body.without_effect() - {"user"} | {"stream", "stream_options"}
    return dict.fromkeys(names, True) | {"messages": {"__all__": {"annotations", "audio"}}}
