"""Threads for short calls: what they give back, how many there are, and what becomes of calls nobody waits for."""

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from service.workers import Workers

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(2, "test-worker")
    yield made
    made.close()


def alive() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("test-worker")}


def test_a_call_runs_in_a_thread_with_its_tasks_context(workers: Workers) -> None:
    async def test() -> None:
        WHO.set("me")
        assert await workers.run(lambda: (WHO.get(), threading.current_thread().name)) == ("me", "test-worker-0")

    asyncio.run(test())
    assert WHO.get() == "nobody"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError(1), SystemExit(3)])
def test_what_a_call_raises_is_raised_and_the_thread_goes_on(workers: Workers, error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def test() -> None:
        for _ in range(3):
            with pytest.raises(type(error)) as caught:
                await workers.run(fail)
            assert caught.value is error
        assert await workers.run(lambda: 1) == 1

    asyncio.run(test())


def test_as_many_run_at_a_time_as_there_are_threads_and_the_rest_waits(workers: Workers) -> None:
    running, go = threading.Semaphore(0), threading.Event()

    def call() -> int:
        running.release()
        go.wait(10)
        return 1

    async def test() -> None:
        calls = [asyncio.create_task(workers.run(call)) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert running.acquire(timeout=5) and running.acquire(timeout=5) and not running.acquire(blocking=False)
        go.set()
        assert await asyncio.gather(*calls) == [1] * 5

    asyncio.run(test())
    assert alive() == {"test-worker-0", "test-worker-1"}


def test_one_call_after_the_other_needs_one_thread(workers: Workers) -> None:
    async def test() -> None:
        assert {await workers.run(threading.get_ident) for _ in range(20)} == {await workers.run(threading.get_ident)}

    asyncio.run(test())
    assert alive() == {"test-worker-0"}


def test_a_call_that_nobody_waits_for_is_finished(workers: Workers) -> None:
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        go.wait(10)
        done.set()

    async def test() -> None:
        task = asyncio.create_task(workers.run(call))
        await asyncio.to_thread(begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await workers.run(lambda: 2) == 2  # by the other thread, while this one is still busy
        go.set()

    asyncio.run(test())
    assert done.wait(5)


def test_a_loop_may_close_before_its_call_is_done(workers: Workers) -> None:
    go, done = threading.Event(), threading.Event()

    def call() -> None:
        go.wait(10)
        done.set()

    async def test() -> None:
        waiting = asyncio.create_task(workers.run(call))
        await asyncio.sleep(0.05)
        assert not waiting.done()

    asyncio.run(test())
    go.set()
    assert done.wait(5)
    assert asyncio.run(workers.run(lambda: 3)) == 3


def test_closing_ends_the_threads() -> None:
    workers = Workers(2, "test-worker-closing")
    asyncio.run(workers.run(lambda: None))
    threads = [thread for thread in threading.enumerate() if thread.name == "test-worker-closing-0"]
    workers.close()
    for thread in threads:
        thread.join(5)
    assert threads and not any(thread.is_alive() for thread in threads)
    with pytest.raises(RuntimeError):
        asyncio.run(workers.run(lambda: None))


def test_a_thread_that_cannot_be_started_is_started_the_next_time(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                asyncio.run(workers.run(lambda: 1))
    assert asyncio.run(workers.run(lambda: 1)) == 1
