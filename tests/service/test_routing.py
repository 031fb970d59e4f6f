"""Routing decisions: where an adapter goes, what stays in memory, who is asked no more."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.routing import (
    FAILURES,
    HALF_LIFE_SECONDS,
    LEAST_BOUND,
    LONGEST_PAUSE_SECONDS,
    Health,
    Heat,
    View,
    order,
    placements,
    rank,
)

URLS = [f"http://vllm-{number}" for number in range(4)]


def views(**changes: dict[str, object]) -> list[View]:
    """Three replicas; `changes` by the place in the ranking of adapter "a": first, second, third."""
    ranked = [view.url for view in rank("a", [View(url) for url in URLS[:3]])]
    return [View(url, **changes.get(name, {})) for name, url in zip(("first", "second", "third"), ranked, strict=True)]  # type: ignore[arg-type]


HERE = frozenset("a")

TABLE = {
    "an adapter goes home": ({}, 1, ["first", "second", "third"]),
    "even where another has it": ({"second": {"resident": HERE}}, 1, ["first", "second", "third"]),
    "beyond home to where it is": ({"third": {"resident": HERE}}, 1, ["first", "third", "second"]),
    "memory is better than disk": (
        {"second": {"cached": HERE}, "third": {"resident": HERE}},
        1,
        ["first", "third", "second"],
    ),
    "of two homes the one that has it": ({"second": {"resident": HERE}}, 2, ["second", "first", "third"]),
    "of two equal homes the idler": ({"first": {"load": 2}}, 2, ["second", "first", "third"]),
    "an overloaded home is passed over": ({"first": {"load": 9}}, 1, ["second", "third", "first"]),
    "a little load is none": ({"first": {"load": LEAST_BOUND - 1}}, 1, ["first", "second", "third"]),
    "a sick home comes last": ({"first": {"healthy": False}}, 1, ["second", "third", "first"]),
    "one that drains comes after the sick": (
        {"first": {"draining": True}, "second": {"healthy": False}},
        1,
        ["third", "second", "first"],
    ),
    "when all are sick all are tried": (
        {"first": {"healthy": False, "load": 1}, "second": {"healthy": False}, "third": {"healthy": False, "load": 2}},
        1,
        ["second", "first", "third"],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_where_a_request_goes(case: str):
    changes, copies, expected = TABLE[case]
    three = views(**changes)
    names = dict(zip([view.url for view in three], ("first", "second", "third"), strict=True))
    assert [names[url] for url in order("a", three, copies)] == expected


def test_the_base_goes_to_the_idlest():
    three = views(first={"load": 3}, second={"load": 1}, third={"load": 0, "healthy": False})
    assert order(None, three) == [three[1].url, three[0].url, three[2].url]


STATES = st.builds(
    lambda healthy, draining, load, resident: {
        "healthy": healthy,
        "draining": draining,
        "load": load,
        "resident": frozenset(resident),
    },
    st.booleans(),
    st.booleans(),
    st.integers(0, 50),
    st.sets(st.sampled_from("abc")),
)


@given(states=st.lists(STATES, min_size=1, max_size=4), adapter=st.sampled_from("abcd"), copies=st.integers(1, 4))
def test_every_replica_is_tried_once_and_the_able_ones_first(
    states: list[dict[str, object]], adapter: str, copies: int
):
    four = [View(url, **state) for url, state in zip(URLS, states, strict=False)]  # type: ignore[arg-type]
    ordered = order(adapter, four, copies)
    assert sorted(ordered) == sorted(view.url for view in four)
    able = {view.url for view in four if view.healthy and not view.draining}
    assert set(ordered[: len(able)]) == able
    loads = {view.url: view.load for view in four}
    if able:  # a bound on load that nobody exceeds while another is free
        assert (
            loads[ordered[0]] < LEAST_BOUND
            or loads[ordered[0]] <= 1.25 * (sum(loads[u] for u in able) + 1) / len(able) + 1
        )


def test_adapters_spread_evenly_and_few_move_when_a_replica_goes():
    four = [View(url) for url in URLS]
    adapters = [f"lora-{number}" for number in range(2000)]
    homes = {adapter: order(adapter, four)[0] for adapter in adapters}
    counts = collections.Counter(homes.values())
    assert all(400 < counts[url] < 600 for url in URLS)
    moved = [a for a in adapters if order(a, four[:3])[0] != homes[a]]
    assert {homes[a] for a in moved} == {URLS[3]}


def test_hot_adapters_get_more_homes_and_idle_ones_none():
    heat = Heat()
    for number in range(100):
        heat.hit("hot", 0.0)
        if number % 4 == 0:
            heat.hit("warm", 0.0)
        if number % 50 == 0:
            heat.hit("cool", 0.0)
    assert heat.hot(4, 0.0) == [("hot", 4), ("warm", 1), ("cool", 1)]
    assert heat.copies("never", 4, 0.0) == 1
    later = 3 * HALF_LIFE_SECONDS
    assert [name for name, _ in heat.hot(4, later)] == ["hot", "warm"]
    assert heat.hot(4, 100 * HALF_LIFE_SECONDS) == []
    assert heat.copies("hot", 1, 0.0) == 1


def test_what_is_kept_where():
    four = [View(url, places=4) for url in URLS]
    kept = placements(four, [("hot", 3), ("warm", 1)], pinned=["pin", "hot"])
    flat = collections.Counter(name for names in kept.values() for name in names)
    assert flat == {"hot": 3, "warm": 1, "pin": 1}
    assert kept[rank("pin", four)[0].url][0] == "pin"
    small = placements([View(url, places=1) for url in URLS[:2]], [(f"a{n}", 1) for n in range(9)], pinned=["pin"])
    assert [len(names) for names in small.values()] == [1, 1] and ["pin"] in small.values()
    assert placements([View(URLS[0], healthy=False)], [("hot", 1)]) == {}


def test_a_sick_replica_is_ejected_looked_at_less_and_less_and_readmitted():
    health = Health()
    for count in range(1, FAILURES + 1):
        health.failed(0.0)
        assert health.healthy is (count < FAILURES)
    assert not health.due(0.5) and health.due(1.0)
    health.failed(1.0)
    assert not health.due(2.9) and health.due(3.0)
    for _ in range(10):
        health.failed(10.0)
    assert health.due(10.0 + LONGEST_PAUSE_SECONDS) and not health.due(9.0 + LONGEST_PAUSE_SECONDS)
    health.answered()
    assert health.healthy and health.due(0.0)
    for _ in range(FAILURES):
        health.failed(100.0)
    assert health.due(101.0)  # it begins with short pauses again
