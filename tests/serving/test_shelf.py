"""The shelf: what goes when it is full, and what nobody may take away, by threads and by processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.shelf import Shelf, oldest


def put(shelf: Shelf, name: str, size: int = 100, age: float = 0.0) -> str:
    adapter_id = f"lora-{name}-0000"
    scratch = shelf.scratch(adapter_id)
    scratch.mkdir()
    (scratch / "weights").write_bytes(b"x" * size)
    path = shelf.place(scratch, adapter_id)
    then = time.time() - age
    os.utime(path, (then, then))
    return adapter_id


def names(shelf: Shelf) -> list[str]:
    return [entry.adapter_id for entry in shelf.entries()]


def test_the_longest_unused_go_first_and_only_as_many_as_needed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit=350)
    old, middle, new = (put(shelf, name, age=age) for name, age in (("old", 30), ("mid", 20), ("new", 10)))
    assert names(shelf) == [old, middle, new]
    assert shelf.make_room(50)
    assert names(shelf) == [old, middle, new]
    assert shelf.make_room(51)
    assert names(shelf) == [middle, new]
    shelf.touch(middle)
    assert shelf.make_room(200)
    assert names(shelf) == [middle]


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    kept = put(shelf, "a")
    assert shelf.make_room(10**12)
    assert names(shelf) == [kept]


def test_what_is_held_stays_whoever_wants_the_room(tmp_path: Path) -> None:
    mine, other = Shelf(tmp_path, limit=150), Shelf(tmp_path, limit=150)
    held, free = put(mine, "held", age=60), put(mine, "free")
    mine.hold(held)
    assert not mine.remove(held)
    assert not other.remove(held)
    assert not other.make_room(100)  # the free one goes, and it is not enough
    assert names(mine) == [held]
    mine.let_go(held)
    assert other.make_room(100)
    assert names(mine) == []
    assert free not in names(other)


def test_two_that_hold_one_adapter_must_both_let_go(tmp_path: Path) -> None:
    first, second, third = (Shelf(tmp_path, limit=1) for _ in range(3))
    held = put(first, "held")
    first.hold(held)
    second.hold(held)
    first.let_go(held)
    assert not third.remove(held)
    second.let_go(held)
    assert third.remove(held)


@pytest.mark.integration
def test_a_process_that_dies_holds_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit=1)
    held = put(shelf, "held")
    code = f"""
import sys, pathlib
from serving.shelf import Shelf
Shelf(pathlib.Path({str(tmp_path)!r})).hold({held!r})
print("holding", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == b"holding\n"
    assert not shelf.remove(held)
    other.kill()
    other.wait()
    assert shelf.remove(held)
    other.stdout.close()
    other.stdin.close()


def test_what_this_process_could_spare_is_asked_for(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, limit=100)
    busy, idle = put(shelf, "busy", age=60), put(shelf, "idle")
    for one in (busy, idle):
        shelf.hold(one)
    asked = []

    def spare(adapter_id: str) -> bool:
        asked.append(adapter_id)
        if adapter_id == busy:
            return False
        shelf.let_go(adapter_id)
        return True

    assert not shelf.make_room(100, spare)
    assert asked == [busy, idle]
    assert names(shelf) == [busy]


def test_a_damaged_one_is_replaced_whole(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    adapter_id = put(shelf, "a")
    weights = shelf.path(adapter_id) / "weights"
    with weights.open("rb") as reader:
        scratch = shelf.scratch(adapter_id)
        scratch.mkdir()
        (scratch / "weights").write_bytes(b"better")
        shelf.replace(scratch, adapter_id)
        assert reader.read() == b"x" * 100  # whoever has it open goes on with what it began to read
    assert weights.read_bytes() == b"better"
    assert list((tmp_path / ".unfinished").iterdir()) == []


@given(
    used=st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 100)),
    keep=st.integers(0, 8),
    but=st.sets(st.sampled_from("abcdefgh")),
)
def test_the_oldest_are_those_beyond_what_is_kept(used: dict[str, float], keep: int, but: set[str]) -> None:
    surplus = oldest(used, keep, but)
    assert len(surplus) <= max(0, len(used) - keep)
    assert not but & set(surplus)
    for name in surplus:
        assert sum(used[other] >= used[name] for other in used) >= keep
