"""The vLLM servers of the base models: found, watched, chosen among, told what to keep.

Each is looked at every few seconds; what its door tells (`serving.door`) and how its answers went make the picture that
`service.routing` decides by. Knows no callers, keys or databases.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool

from rootstock.errors import EngineAway, EngineSlow, Unavailable
from rootstock.settings import Settings
from service import routing
from service.connections import Locate
from service.routing import Health, Heat, View
from service.upstream import Engine, FullModels

log = logging.getLogger(__name__)

T = TypeVar("T")

IDENTITY_ADAPTER = "identity-lora"
"""On vLLM's CPU back-end base requests that share a batch with adapter requests get the wrong weights (vllm #48421).
Where serving has loaded this adapter (all B matrices zero), base requests go through it."""

DNS = "dns+"
"""Before a URL: every address of its host is a replica of its own, as a headless service of Kubernetes lists them."""

BASE_MODEL_SECONDS = 10.0
LOOK_SECONDS = 2.0
DNS_SECONDS = 5.0
PINS_SECONDS = 10.0
KEEP_SECONDS = 20.0
"""So often at least a replica hears what it is to keep: it forgets what it was told a minute ago."""

MOST_TRIES = 2
"""One more try: a request that is the death of an engine must not be handed to all of them. Who could not be reached
has not been handed it."""


class Replica(Engine):
    """One server, and what is known of it."""

    def __init__(self, url: str, settings: Settings, locate: Locate | None) -> None:
        super().__init__(url, settings.inference_timeout_seconds, locate)
        self.health = Health()
        self.seen_at = float("-inf")
        """When the last look at it began that found it well."""

        self._base_name = settings.base_name
        self._base_model = ("", 0.0)
        self._under_way = 0
        self._seen: dict[str, Any] = {}
        self._resident: frozenset[str] = frozenset()
        self._cached: frozenset[str] = frozenset()
        self._told: tuple[list[str], float] = ([], float("-inf"))

    @property
    def idle(self) -> bool:
        """Whether no request of this process is under way there."""
        return not self._under_way

    @property
    def view(self) -> View:
        """What there is to decide by."""
        seen = self._seen
        elsewhere = sum(seen.get("running", {}).values()) + seen.get("waiting", 0)
        return View(
            self.url,
            healthy=self.health.healthy,
            draining=bool(seen.get("draining")),
            load=max(self._under_way, elsewhere),  # other gateways ask, too
            resident=self._resident,
            cached=self._cached,
            places=seen.get("max_cpu_loras", 1),
        )

    @property
    def most_rank(self) -> int | None:
        """The largest rank of an adapter that it takes, if it has told."""
        rank = self._seen.get("max_lora_rank")
        return rank if isinstance(rank, int) else None

    def begun(self) -> None:
        """A request is under way until `ended`."""
        self._under_way += 1

    def ended(self) -> None:
        """It has come to its end, whichever."""
        self._under_way -= 1

    async def base_model(self) -> str:
        """What vLLM calls the model that answers for the base, remembered for some seconds."""
        name, looked_at = self._base_model
        if name and time.monotonic() - looked_at < BASE_MODEL_SECONDS:
            return name
        listed = await self.names()
        name = next((known for known in (IDENTITY_ADAPTER, self._base_name) if known in listed), listed[0])
        self._base_model = (name, time.monotonic())
        return name

    def forget_base_model(self) -> None:
        """Ask again at the next request: vLLM has restarted, or the identity adapter is gone."""
        self._base_model = ("", 0.0)

    def failed(self) -> None:
        """It did not answer: what is known of it may be out of date."""
        healthy = self.health.healthy
        self.health.failed(time.monotonic())
        self.forget_base_model()
        self._told = ([], float("-inf"))
        if healthy and not self.health.healthy:
            log.warning("vLLM at %s does not answer; others are asked where there are any", self.url)

    async def look(self, *, awaited: bool = False) -> None:
        """Bring the picture up to date, unless it is too early for a sick one that nobody waits for."""
        began = time.monotonic()
        if not awaited and not self.health.due(began):
            return
        healthy = self.health.healthy
        try:
            state = await self.state()
            if not await self.alive():  # a door answers although the engine behind it is dead
                raise EngineAway("not healthy")
        except Unavailable:
            self.failed()
            return
        self._seen = state or {}
        self._resident, self._cached = (frozenset(self._seen.get(name, ())) for name in ("resident", "cached"))
        self.health.answered()
        self.seen_at = began
        if not healthy:
            log.info("vLLM at %s answers again", self.url)

    async def tell(self, gateway: str, adapters: list[str]) -> None:
        """Say what it is to keep, if it has a door and did not hear it lately."""
        told, at = self._told
        missing = set(adapters) - self._resident
        if not self._seen or (told == adapters and not missing and time.monotonic() - at < KEEP_SECONDS):
            return
        if not adapters and not told:
            return
        with contextlib.suppress(Unavailable):
            await self.keep(gateway, adapters)
            self._told = (adapters, time.monotonic())


class Fleet:
    """The replicas of one base and its adapters, which must be some.

    `pinned` names adapters that are to be in memory somewhere at all times; it may block.
    """

    def __init__(
        self,
        settings: Settings,
        locate: Locate | None = None,
        pinned: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._settings = settings
        self._locate = locate
        self._pinned = pinned
        self._gateway = secrets.token_hex(8)
        self._sources = settings.vllm_servers
        static = [url for url in self._sources if not url.startswith(DNS)]
        self._replicas = {url: Replica(url, settings, locate) for url in static}
        self._leaving: list[Replica] = []
        self._waiting = 0  # requests that wait for any replica to come back
        self._heat = Heat()
        self._order = _order(settings)
        self._watch: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._resolved_at = self._pinned_at = float("-inf")
        self._pins: Sequence[str] = ()

    async def aclose(self) -> None:
        """Stop watching and close every connection."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for replica in (*self._replicas.values(), *self._leaving):
            replica.close()

    async def alive(self) -> bool:
        """Whether any replica says it is healthy."""
        await self._found()
        return any(await asyncio.gather(*(replica.alive() for replica in self._replicas.values())))

    @property
    def most_rank(self) -> int | None:
        """The largest rank that every replica takes, as far as their doors have told it."""
        told = [replica.most_rank for replica in self._replicas.values()]
        return min((rank for rank in told if rank is not None), default=None)

    async def ask(self, adapter: str | None, call: Callable[[Replica], Awaitable[T]], held: contextlib.ExitStack) -> T:
        """What `call` makes of the best replica for an adapter (`None`: the base), or of another when that is away.

        While all of them are, it waits for one, as long as ROOTSTOCK_ENGINE_WAIT_SECONDS says. Until `held` is closed
        the replica counts as busy with it. Raises what the last one asked raised.
        """
        until, tries = time.monotonic() + self._settings.engine_wait_seconds, MOST_TRIES
        while True:
            last: Unavailable = EngineAway("No serving engine can be found at the moment. Please retry.")
            all_away = True
            for replica in (await self._in_order(adapter))[:MOST_TRIES]:
                try:
                    return await self._ask_one(replica, adapter, call, held)
                except EngineSlow:
                    raise
                except Unavailable as error:
                    last = error
                    all_away = all_away and isinstance(error, EngineAway)
                    tries -= not isinstance(error, EngineAway) or error.reached
                    if tries <= 0:
                        raise
            if not all_away or not await self._one_is_back(until):
                raise last

    async def _ask_one(
        self, replica: Replica, adapter: str | None, call: Callable[[Replica], Awaitable[T]], held: contextlib.ExitStack
    ) -> T:
        again = adapter is not None  # one that it forgot just now is loaded when it is asked once more
        while True:
            replica.begun()
            try:
                result = await call(replica)
            except BaseException as error:
                replica.ended()
                if isinstance(error, EngineAway):
                    replica.failed()
                elif isinstance(error, Unavailable) and not isinstance(error, EngineSlow):
                    if again:
                        again = False
                        continue
                    if adapter is None:
                        replica.forget_base_model()
                raise
            held.callback(replica.ended)
            replica.health.answered()
            return result

    async def _one_is_back(self, until: float) -> bool:
        """Wait for a replica that is well; whether there was one in time."""
        began = time.monotonic()
        self._waiting += 1
        try:
            while time.monotonic() < until:
                await asyncio.sleep(LOOK_SECONDS / 4)
                if any(replica.seen_at > began for replica in self._replicas.values()):
                    return True
        finally:
            self._waiting -= 1
        return False

    async def _in_order(self, adapter: str | None) -> list[Replica]:
        await self._found()
        copies, now = 1, time.monotonic()
        if adapter is not None:
            self._heat.hit(adapter, now)
            copies = self._heat.copies(adapter, len(self._replicas), now)
        if len(self._replicas) == 1:
            return list(self._replicas.values())
        urls = self._order(adapter, [replica.view for replica in self._replicas.values()], copies)
        return [self._replicas[url] for url in urls]

    async def _found(self) -> None:
        """The watch has begun, and it is known where the replicas are."""
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_them())
        if any(source.startswith(DNS) for source in self._sources):
            await self._known.wait()

    async def _watch_them(self) -> None:
        for round_number in itertools.count():
            if round_number:
                await asyncio.sleep(LOOK_SECONDS * random.uniform(0.9, 1.1))
            try:
                await self._discover()
                self._known.set()
                awaited = self._waiting > 0
                await asyncio.gather(*(replica.look(awaited=awaited) for replica in self._replicas.values()))
                await self._tell()
            except Exception:
                log.exception("the replicas of vLLM could not be looked at; it is tried again")

    async def _discover(self) -> None:
        now = time.monotonic()
        if now - self._resolved_at >= DNS_SECONDS:
            found = {url: None for source in self._sources for url in await _urls(source, set(self._replicas))}
            self._resolved_at = now
            for url in found.keys() - self._replicas.keys():
                self._replicas[url] = Replica(url, self._settings, self._locate)
            for url in self._replicas.keys() - found.keys():
                self._leaving.append(self._replicas.pop(url))
        for replica in [replica for replica in self._leaving if replica.idle]:
            self._leaving.remove(replica)
            replica.close()

    async def _tell(self) -> None:
        now = time.monotonic()
        if now - self._pinned_at >= PINS_SECONDS:
            self._pinned_at = now
            self._pins = await run_in_threadpool(self._pinned)
        hot = self._heat.hot(len(self._replicas), now)
        kept = routing.placements([replica.view for replica in self._replicas.values()], hot, self._pins)
        told = [self._replicas[url].tell(self._gateway, names) for url, names in kept.items()]
        await asyncio.gather(*told)


class Upstream:
    """All servers of models: a fleet for every base that has a vLLM, and in `full` those of whole models.

    `pinned` names, of a base, adapters that are to be in memory somewhere at all times; it may block.
    """

    def __init__(
        self,
        settings: Settings,
        locate: Locate | None = None,
        pinned: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> None:
        alone = {name: settings.for_base(name) for name in settings.bases}
        self._fleets = {
            name: Fleet(chosen, locate, functools.partial(pinned, name))
            for name, chosen in alone.items()
            if chosen.vllm_servers
        }
        seconds = settings.inference_timeout_seconds
        self.full = FullModels([Engine(url, seconds, locate) for url in settings.full_model_servers])

    @property
    def configured(self) -> bool:
        """Whether there is any vLLM of a base."""
        return bool(self._fleets)

    def fleet(self, base: str) -> Fleet:
        """The servers of a base. Raises `Unavailable` when it has none."""
        if base not in self._fleets:
            raise Unavailable("This deployment does not serve that model: no vLLM is configured for its base.")
        return self._fleets[base]

    def most_rank(self, base: str) -> int | None:
        """The largest rank of an adapter of this base that all of its servers take, as far as is known."""
        return self._fleets[base].most_rank if base in self._fleets else None

    async def alive(self, base: str | None = None) -> bool:
        """Whether the base, or each one that has a vLLM, has one that is healthy."""
        asked = self._fleets.values() if base is None else [self._fleets[base]] if base in self._fleets else []
        return bool(asked) and all(await asyncio.gather(*(fleet.alive() for fleet in asked)))

    async def aclose(self) -> None:
        """Stop watching and close every connection."""
        for fleet in self._fleets.values():
            await fleet.aclose()
        self.full.close()


async def _urls(source: str, known: set[str]) -> list[str]:
    """The replicas that one entry of the setting stands for; those known when its name cannot be resolved now."""
    if not source.startswith(DNS):
        return [source]
    parts = urlsplit(source.removeprefix(DNS))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, proto=6)
    except OSError as error:
        log.warning("the replicas of vLLM at %s cannot be looked up: %s", parts.hostname, error)
        return sorted(known)
    hosts = sorted({str(address[0]) for *_, address in found})
    return [f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host in hosts]


def _order(settings: Settings) -> routing.Order:
    if settings.routing == "round_robin":
        turns = itertools.count()
        return routing.blind(lambda views: next(turns) % len(views))
    if settings.routing == "random":
        return routing.blind(lambda views: random.randrange(len(views)))
    return routing.order
