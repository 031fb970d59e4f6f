"""A few threads of their own for short calls that block: looking up who asks a model, which every answer waits for.

The threads that all other requests share may be busy with slow ones, and to hand a call over to those takes twice as
long. Knows nothing about what is called.
"""

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Call = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", contextvars.Context, Callable[[], Any]]


class Workers:
    """Up to `count` threads, each started when it is first needed. Close it.

    Example: `found = await workers.run(lambda: look_up(name))`.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._count = count
        self._name = name
        self._started = 0
        self._under_way = 0
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` gives in one of the threads, with this task's context variables. Raises what it raises.

        One that nobody waits for any more is finished all the same. Raises `RuntimeError` once closed.
        """
        if self._closed:
            raise RuntimeError("closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._under_way >= self._started and self._started < self._count:
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
            self._started += 1
        self._under_way += 1
        self._calls.put((loop, future, contextvars.copy_context(), call))
        return await future

    def close(self) -> None:
        """Let the threads end, once what was asked of them is done."""
        self._closed = True
        for _ in range(self._started):
            self._calls.put(None)

    def _work(self) -> None:
        while (asked := self._calls.get()) is not None:
            loop, future, context, call = asked
            result, error = None, None
            try:
                result = context.run(call)
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(self._tell, future, result, error)
            del asked, future, context, call, result, error  # or they would live until the next call

    def _tell(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        self._under_way -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
