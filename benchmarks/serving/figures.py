"""The figures of `make bench-serve`: what is asked of which side, in turn, and the ratio that comes of it.

Each figure yields rows for the table. Knows how to ask, not how processes are started.
"""

import asyncio
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import uvloop

from benchmarks.serving.client import Took
from benchmarks.serving.load import Figures, apart, drive, faster, percentile, uniform, zipf
from benchmarks.serving.stack import Bench, Made
from benchmarks.serving.stamps import PATH

CONCURRENCY = (1, 8, 32)
COUNTS = (1, 8, 32, 128, 512)
REPEATS = 7
FIRST_TOKENS = 4
ANSWER_TOKENS = 32
"""Of the answers whose throughput is measured: the random weights of the adapters would end them after four."""

BASE = "rootstock-tiny"
ROUTING = "200 adapters, two replicas of 16 places, Zipf"


@dataclass(frozen=True)
class Row:
    """One line of the table. `reached` is `None` where there is no target."""

    figure: str
    case: str
    value: str
    target: str = ""
    reached: bool | None = None
    raw: Any = None


def loaded(
    url: str, key: str, pick: Callable[[], str], clients: int, requests: int, **answers: Any
) -> tuple[list[Took], float]:
    """`drive`, for callers that do nothing else meanwhile."""
    return uvloop.run(drive(url, key, pick, clients=clients, requests=requests, **answers))


def throughput(vllm: str, front: str, bench: Bench, made: Made, requests: int) -> Iterator[Row]:
    """The same adapter asked of vLLM and through the gateway, in turn."""
    sides = _warm({vllm: made.adapter, front: made.name}, bench)
    for clients in CONCURRENCY:
        pairs = []
        for repeat in range(REPEATS):
            found = {}
            for url in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
                count = {1: requests // 8}.get(clients, max(requests // 2, 3 * clients))
                pick = functools.partial(str, sides[url])
                answers = {"tokens": ANSWER_TOKENS, "never": bench.end_tokens}
                took, seconds = loaded(url, bench.key, pick, clients, count, **answers)
                found[url] = Figures.of(took, seconds)
            pairs.append([found[vllm], found[front]])
        speeds = [[pair[side].tokens_per_second for pair in pairs] for side in (0, 1)]
        low, ratio, high = faster(*speeds)
        raw = [[asdict(side) for side in pair] for pair in pairs]
        told = f"{ratio:.3f} [{low:.3f}-{high:.3f}]"
        yield Row("throughput, gateway / vLLM", f"{clients} clients", told, ">= 0.97", ratio >= 0.97, raw)


def first_tokens(vllm: str, front: str, bench: Bench, made: Made, requests: int) -> Iterator[Row]:
    """The same adapter asked of vLLM and through the gateway, in turn: how much longer the way there and back is.

    By `stamps`, without the engine's queue, which would hide a few milliseconds among the hundreds that it takes.
    """
    sides = _warm({vllm: made.adapter, front: made.name}, bench)
    for clients in CONCURRENCY:
        ways: dict[str, list[list[float]]] = {url: [] for url in sides}
        firsts: dict[str, list[float]] = {url: [] for url in sides}
        for repeat in range(REPEATS):
            for url in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
                count = {1: requests // 4}.get(clients, max(requests // 2, 4 * clients))
                pick = functools.partial(str, sides[url])
                answers = {"tokens": FIRST_TOKENS, "never": bench.end_tokens, "lead_in": True}
                took, _ = loaded(url, bench.key, pick, clients, count, **answers)
                stamps = httpx.get(f"{vllm}{PATH}", timeout=10).raise_for_status().json()
                took = [one for one in took if one.id in stamps]  # the others' tokens made no whole character
                ways[url].append([one.first - (stamps[one.id][1] - stamps[one.id][0]) for one in took])
                firsts[url] += [one.first for one in took]
        low, more, high = (1000 * value for value in apart(ways[vllm], ways[front]))
        told = f"{more:.2f} ms [{low:.2f}-{high:.2f}] to {1000 * statistics.median(firsts[vllm]):.0f} ms"
        raw = [{"way_ms": [_ms(run) for run in ways[url]], "first_ms": _ms(firsts[url])} for url in sides]
        yield Row("first token, gateway adds", f"{clients} clients", told, "<= 3 ms", more <= 3.0, raw)


def many(url: str, plain: str, bench: Bench, made: Sequence[Made], requests: int, clients: int = 8) -> Iterator[Row]:
    """More and more adapters on one base, against the base alone, each beside it in turn; and one of them merged.

    `plain` is a vLLM without adapters that serves the merged model.
    """

    def measured(where: str, pick: Callable[[], str], warm: int) -> Figures:
        loaded(where, bench.key, pick, clients, warm)
        return Figures.of(*loaded(where, bench.key, pick, clients, requests))

    alone = [measured(url, lambda: BASE, 16) for _ in range(2)]
    merged = [measured(plain, lambda: BASE, 16) for _ in range(2)]
    yield Row("base only", f"{clients} clients", _told(alone[-1]), raw=[asdict(one) for one in alone])
    share = _share(merged, alone)
    yield Row("one adapter, merged", "a vLLM of its own", f"{_told(merged[-1])}; {share:.2f}x the base")
    for count, (shape, source) in itertools.product(COUNTS, (("uniform", uniform), ("zipf", zipf))):
        names = [one.name for one in made[:count]]
        if len(names) < count or (count == 1 and shape == "zipf"):
            continue
        found = [measured(url, source(names, 2), min(requests, 2 * count)), measured(url, source(names, 3), clients)]
        alone = [alone[-1], measured(url, lambda: BASE, clients)]  # the one before and the one after
        share, share_merged = _share(found, alone), _share(found, merged)
        told = f"{_told(found[-1])}; {share:.2f}x the base, {share_merged:.2f}x merged"
        yield Row(f"{count} adapters", shape, told, raw=[asdict(one) for one in found])


def memory(vllm: str, bench: Bench, made: Sequence[Made]) -> Row:
    """How much a vLLM grows with every further adapter in its memory, and how large its file is."""
    first, last = made[: len(made) // 2], made[len(made) // 2 :]
    on_disk([vllm], first)
    before = bench.resident_bytes()
    on_disk([vllm], last)
    grown, size = (bench.resident_bytes() - before) / len(last), bench.adapter_bytes
    told = f"{grown / 1e6:.2f} MB each, of a file of {size / 1e6:.2f} MB"
    return Row("memory per adapter", f"{len(last)} more", told, raw={"grown": grown, "file": size})


def warmth(vllm: str, front: str, bench: Bench, made: Sequence[Made]) -> Iterator[Row]:
    """First tokens by where the adapter was: in a slot, in memory, on disk, in S3; one request at a time."""
    firsts: dict[str, list[float]] = {"resident": [], "memory": [], "disk": [], "cold from S3": []}

    def first(one: Made) -> float:
        took, _ = loaded(front, bench.key, lambda: one.name, 1, 1, tokens=2)
        return took[0].first

    slots = bench.settings.max_loras + 1
    for number, one in enumerate(made):
        firsts["cold from S3"].append(first(one))
        firsts["resident"].append(first(one))
        if number < slots:
            continue
        for other in (made[number - 1 - step] for step in range(slots)):
            first(other)
        firsts["memory"].append(first(one))
        httpx.post(f"{vllm}/v1/unload_lora_adapter", json={"lora_name": one.adapter}, timeout=30)
        firsts["disk"].append(first(one))
    for name, values in firsts.items():
        found = sorted(1000 * value for value in values)
        told = ", ".join(f"p{100 * share:.0f} {percentile(found, share):.1f} ms" for share in (0.5, 0.95, 0.99))
        target = "<= 2 s + load" if name.startswith("cold") else ""
        reached = percentile(found, 0.95) <= 2000 if target else None
        yield Row("first token", name, told, target, reached, found)


def on_disk(vllm: Sequence[str], made: Sequence[Made]) -> None:
    """Every adapter once at every server, so that each lies on its disk."""
    for url, one in itertools.product(vllm, made):
        body = {"model": one.adapter, "prompt": "x", "max_tokens": 1}
        httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status()


@dataclass(frozen=True)
class Routed:
    """What one round of a kind of routing took: its requests, their seconds together, adapters that were loaded."""

    took: list[Took]
    seconds: float
    loads: float


def routed(
    front: str, vllm: Sequence[str], bench: Bench, made: Sequence[Made], requests: int, clients: int = 8
) -> Routed:
    """Zipf traffic over replicas whose memory holds a part of the adapters."""
    names = [one.name for one in made]
    # What another kind left is washed out, and every adapter's first load, which no routing can spare.
    loaded(front, bench.key, zipf(names, 2), clients, 2 * requests, tokens=8)
    before = sum(_loads(one) for one in vllm)
    took, seconds = loaded(front, bench.key, zipf(names), clients, 3 * requests, tokens=8)
    return Routed(took, seconds, sum(_loads(one) for one in vllm) - before)


def routing(kind: str, rounds: Sequence[Routed]) -> Row:
    """Hits and first tokens of all rounds of one kind."""
    took = [one for part in rounds for one in part.took]
    found = Figures.of(took, sum(part.seconds for part in rounds))
    hits = 1 - sum(part.loads for part in rounds) / len(took)
    return Row(ROUTING, kind, f"hit rate {hits:.3f}, {_told(found)}", raw=asdict(found) | {"hits": hits})


def compared(rows: Sequence[Row]) -> Iterator[Row]:
    """Our routing against the others, where they were measured."""
    found = {row.case: row.raw for row in rows if row.figure == ROUTING}
    ours = found.pop("residency", None)
    for kind, other in found.items() if ours else ():
        ratio = ours["first_p95_ms"] / other["first_p95_ms"]
        yield Row("p95 of first token", f"residency / {kind}", f"{ratio:.2f}", "< 1", ratio < 1)
        gain = ours["hits"] - other["hits"]
        yield Row("hit rate", f"residency - {kind}", f"{gain:+.3f}", "> 0", gain > 0)


async def flip(url: str, key: str, alias: str, old: str, new: str, clients: int = 8) -> Row:
    """Requests for an alias without a pause while it is moved: how many are lost, and when all are on the new model."""
    over = asyncio.Event()
    seen: list[tuple[float, float, str]] = []
    lost: list[str] = []
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": alias, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}

    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as http:

        async def client() -> None:
            while not over.is_set():
                sent = time.perf_counter()
                answer = await http.post("/v1/chat/completions", json=body)
                if answer.status_code == 200:
                    seen.append((sent, time.perf_counter(), answer.json()["model"]))
                else:
                    lost.append(answer.text[:200])

        async def move(model: str) -> None:
            answer = await http.post("/v1/rootstock/aliases", json={"name": alias, "model": model})
            answer.raise_for_status()

        await move(old)
        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        await asyncio.sleep(3)
        began = time.perf_counter()
        await move(new)
        confirmed = time.perf_counter()
        await asyncio.sleep(3)
        over.set()
        await asyncio.gather(*tasks)
    stale = [sent for sent, _, model in seen if model == old and sent > confirmed]
    last_old = max((sent for sent, _, model in seen if model == old), default=began)
    took = max(0.0, max(last_old, began) - began)
    told = f"{len(lost)} of {len(seen)} lost, {len(stale)} stale; all new after {1000 * took:.1f} ms, "
    told += f"the call took {1000 * (confirmed - began):.1f} ms"
    return Row("alias flip under load", f"{clients} clients", told, "0 lost", not lost and not stale)


def _warm(sides: dict[str, str], bench: Bench) -> dict[str, str]:
    for url, name in sides.items():
        loaded(url, bench.key, lambda name=name: name, 4, 16)  # type: ignore[misc]
    return sides


def _ms(seconds: Sequence[float]) -> list[float]:
    return [round(1000 * value, 2) for value in seconds]


def _share(some: Sequence[Figures], of: Sequence[Figures]) -> float:
    told = [statistics.mean(one.tokens_per_second for one in several) for several in (some, of)]
    return told[0] / told[1]


def _told(found: Figures) -> str:
    return (
        f"{found.tokens_per_second:.0f} tokens/s, first token p50 {found.first_p50_ms:.0f} "
        f"p95 {found.first_p95_ms:.0f} p99 {found.first_p99_ms:.0f} ms"
    )


def _loads(vllm: str) -> float:
    """How often this vLLM has had to fetch an adapter, from S3 or from its disk."""
    text = httpx.get(f"{vllm}/metrics", timeout=10).text
    lines = [line for line in text.splitlines() if line.startswith("rootstock_adapter_fetches_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
