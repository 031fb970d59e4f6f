"""Whether who asked is still there to hear the answer. Knows ASGI's `receive`; nothing about what is answered."""

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect
from starlette.types import Receive

SEND_SECONDS = 60.0
"""A client that takes nothing for so long, or at most for twice that, has gone away."""


class Presence:
    """Cuts blocks of the current task short, and vLLM's generation with them, when the client hangs up.

    They raise `ClientDisconnect` then. The request's body must have been read. `stop` it after the last block.

    Example: `with presence: answer = await ask()`.
    """

    def __init__(self, receive: Receive) -> None:
        here = asyncio.current_task()
        assert here is not None
        self._here = here
        self._receive = receive
        self._within = self._gone = False
        self.sending_since: float | None = None
        """By the loop's clock; `None` while nothing is sent. Instead of a timeout for each piece of an answer, which
        would take longer than to send it."""

        self._watching = asyncio.create_task(self._watch())

    def __enter__(self) -> None:
        if self._gone:
            raise ClientDisconnect
        self._within = True

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._within = False
        # Else somebody else wants this task to end.
        if isinstance(error, asyncio.CancelledError) and self._gone and not self._here.uncancel():
            raise ClientDisconnect from None

    def stop(self) -> None:
        """Look no more."""
        self._watching.cancel()

    async def _watch(self) -> None:
        while not self._gone:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    self._gone = (await self._receive())["type"] == "http.disconnect"
            except TimeoutError:
                now = asyncio.get_running_loop().time()
                self._gone = self.sending_since is not None and now - self.sending_since >= SEND_SECONDS
        if self._within:
            self._here.cancel()
