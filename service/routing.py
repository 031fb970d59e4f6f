"""Which replica of vLLM answers which adapter: pure decisions from what is known of the replicas.

Rendezvous hashing gives every adapter its homes, the same at every gateway and as few moved as possible when replicas
come and go (Thaler and Ravishankar 1998); a bound on each replica's load keeps one hot home from holding up the others
(Mirrokni et al. 2018). Knows no HTTP, no clock and no database.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

LOAD_BOUND = 1.25
"""A replica with more than this times the mean load is passed over while another can be asked."""

LEAST_BOUND = 4
"""Below so many requests under way no replica counts as overloaded."""

HALF_LIFE_SECONDS = 60.0
KEPT_SHARE = 0.75
"""Of a replica's places in memory for adapters that are kept there unasked; the others are for whoever comes."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
FAILURES = 2
"""So many in a row eject a replica that was healthy."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known of one replica."""

    url: str
    healthy: bool = True
    draining: bool = False
    load: int = 0  # requests under way
    resident: frozenset[str] = frozenset()  # adapters in vLLM's memory
    cached: frozenset[str] = frozenset()  # adapters on its disk
    places: int = 32  # adapters that its memory holds


def order(adapter: str | None, views: Sequence[View], copies: int = 1) -> list[str]:
    """The replicas to try for an adapter (`None`: the base), the best first. Those that are sick come last.

    Among its `copies` homes the adapter goes where it is in memory already, then where it is on disk, then to the least
    loaded; beyond them to wherever it is, then along its ranking. An overloaded replica is asked after all others.
    """
    able = [view for view in views if view.healthy and not view.draining]
    others = sorted((view for view in views if view not in able), key=lambda view: (view.draining, view.load))
    if adapter is None:
        return [view.url for view in sorted(able, key=lambda view: view.load)] + [view.url for view in others]
    bound = max(LEAST_BOUND, math.ceil(LOAD_BOUND * (sum(view.load for view in able) + 1) / max(1, len(able))))
    ranked = rank(adapter, able)

    def preference(place: int) -> tuple[bool, bool, int, int, int]:
        view = ranked[place]
        home = place < copies
        warmth = 0 if adapter in view.resident else 1 if adapter in view.cached else 2
        # Strangers that hold the adapter are better than strangers, and worse than homes.
        return (view.load >= bound, not home, warmth, view.load if home else 0, place)

    return [ranked[place].url for place in sorted(range(len(ranked)), key=preference)] + [view.url for view in others]


def rank(adapter: str, views: Iterable[View]) -> list[View]:
    """The replicas by their rendezvous weight for the adapter, the first home first."""

    def weight(view: View) -> bytes:
        return hashlib.blake2b(f"{adapter}@{view.url}".encode(), digest_size=8).digest()

    return sorted(views, key=weight, reverse=True)


def placements(
    views: Sequence[View], hot: Sequence[tuple[str, int]], pinned: Sequence[str] = ()
) -> dict[str, list[str]]:
    """What each replica shall keep in memory unasked: what is pinned, then the hot ones with their number of copies.

    Each goes to its homes, or further along its ranking where a home is full.
    """
    able = [view for view in views if view.healthy and not view.draining]
    kept: dict[str, list[str]] = {view.url: [] for view in able}
    room = {view.url: max(1, int(view.places * KEPT_SHARE)) for view in able}
    for adapter, copies in itertools.chain(((name, 1) for name in dict.fromkeys(pinned)), hot):
        left = copies - sum(adapter in names for names in kept.values())
        for view in rank(adapter, able):
            if left <= 0:
                break
            if adapter not in kept[view.url] and len(kept[view.url]) < room[view.url]:
                kept[view.url].append(adapter)
                left -= 1
    return kept


class Heat:
    """How much each adapter was asked for lately: counts that halve every `HALF_LIFE_SECONDS`."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, float]] = {}  # adapter -> count, as of when
        self._total = (0.0, 0.0)

    def hit(self, adapter: str, now: float) -> None:
        """One more request."""
        self._counts[adapter] = (self._now(self._counts.get(adapter), now) + 1, now)
        self._total = (self._now(self._total, now) + 1, now)

    def copies(self, adapter: str, replicas: int, now: float) -> int:
        """On how many replicas an adapter belongs: more than one where it takes more than one's share of traffic."""
        total = self._now(self._total, now)
        if replicas <= 1 or total < replicas * LEAST_BOUND:
            return 1
        share = self._now(self._counts.get(adapter), now) / total
        return min(replicas, max(1, math.ceil(share * replicas * LOAD_BOUND)))

    def hot(self, replicas: int, now: float) -> list[tuple[str, int]]:
        """The adapters that were asked for lately with their copies, the hottest first; idle ones are forgotten."""
        counts = {name: self._now(found, now) for name, found in self._counts.items()}
        self._counts = {name: found for name, found in self._counts.items() if counts[name] >= 0.05}
        warm = sorted((name for name, count in counts.items() if count >= 0.5), key=lambda name: -counts[name])
        return [(name, self.copies(name, replicas, now)) for name in warm]

    @staticmethod
    def _now(found: tuple[float, float] | None, now: float) -> float:
        return 0.0 if found is None else found[0] * 0.5 ** ((now - found[1]) / HALF_LIFE_SECONDS)


@dataclass(slots=True)
class Health:
    """Whether a replica is asked: ejected after failures, looked at again after pauses that double, readmitted."""

    failures: int = 0
    again_at: float = 0.0
    _pause: float = field(default=FIRST_PAUSE_SECONDS)

    @property
    def healthy(self) -> bool:
        """Whether requests go there."""
        return self.failures < FAILURES

    def failed(self, now: float) -> None:
        """It did not answer."""
        was_healthy = self.healthy
        self.failures += 1
        if not self.healthy:
            self._pause = FIRST_PAUSE_SECONDS if was_healthy else min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
            self.again_at = now + self._pause

    def answered(self) -> None:
        """It did."""
        self.failures, self.again_at = 0, 0.0

    def due(self, now: float) -> bool:
        """Whether it is time to look at it."""
        return self.healthy or now >= self.again_at


Order = Callable[[str | None, Sequence[View], int], list[str]]


def blind(pick: Callable[[Sequence[View]], int]) -> Order:
    """An order that knows nothing of adapters, to compare with: `pick` says which of the able ones is first."""

    def ordered(_: str | None, views: Sequence[View], __: int) -> list[str]:
        able = [view for view in views if view.healthy and not view.draining] or list(views)
        first = pick(able)
        turned = [*able[first:], *able[:first]]
        return [view.url for view in turned] + [view.url for view in views if view not in able]

    return ordered
