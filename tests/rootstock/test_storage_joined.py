"""An object made of others, on both stores: it reads like any other, goes with its parts, and is never cut short."""

import pytest

from rootstock.errors import ObjectNotFound, StoreError
from rootstock.storage import Store
from rootstock.storage.s3 import PART_BYTES
from tests.rootstock.stores import bucket, s3_endpoint, store

__all__ = ["bucket", "s3_endpoint", "store"]  # fixtures


def put_parts(store: Store, *contents: bytes) -> list[tuple[str, int]]:
    parts = [(f"uploads/u/part_{number}", len(content)) for number, content in enumerate(contents)]
    for (key, _), content in zip(parts, contents, strict=True):
        store.put_bytes(key, content)
    return parts


JOINED_KEY = "uploads/u/whole.joined"


def test_a_joined_object_reads_like_any_other_whatever_its_parts(store: Store) -> None:
    # Tiny parts, an empty one, and an order that is not the one they were stored in: S3's own multipart refuses these.
    parts = put_parts(store, b"lo wo", b"", b"x" * (PART_BYTES + 1), b"hel", b"rld")
    store.join(JOINED_KEY, [parts[number] for number in (3, 0, 1, 4, 2)])
    assert store.size(JOINED_KEY) == PART_BYTES + 12
    assert store.get_bytes(JOINED_KEY) == b"hello world" + b"x" * (PART_BYTES + 1)
    assert b"".join(store.get(JOINED_KEY)) == store.get_bytes(JOINED_KEY)
    assert store.list("uploads/u") == [*(key for key, _ in parts), JOINED_KEY]


def test_a_joined_object_of_nothing_is_empty(store: Store) -> None:
    store.join(JOINED_KEY, [])
    assert store.size(JOINED_KEY) == 0 and list(store.get(JOINED_KEY)) == []


def test_deleting_a_joined_object_deletes_its_parts_and_nothing_else(store: Store) -> None:
    parts = put_parts(store, b"a", b"b", b"unused")
    store.join(JOINED_KEY, parts[:2])
    store.delete(parts[0][0])  # as a deletion does that was broken off
    store.delete(JOINED_KEY)
    store.delete(JOINED_KEY)
    assert store.list("") == [parts[2][0]]
    for absent in (store.get, store.get_bytes, store.size):
        with pytest.raises(ObjectNotFound, match="whole"):
            absent(JOINED_KEY)


def test_a_list_can_go_without_its_parts(store: Store) -> None:
    parts = put_parts(store, b"a", b"b")
    store.join(JOINED_KEY, parts)
    store.delete_alone(JOINED_KEY)
    assert store.list("") == [key for key, _ in parts]


def test_a_joined_object_that_lost_a_part_is_never_read_as_a_shorter_one(store: Store) -> None:
    parts = put_parts(store, b"a", b"b")
    store.join(JOINED_KEY, parts)
    store.put_bytes(parts[1][0], b"bb")
    with pytest.raises(ObjectNotFound, match="part_1 has 2 bytes, not 1"):
        store.get_bytes(JOINED_KEY)
    store.delete(parts[1][0])
    with pytest.raises(ObjectNotFound, match="part_1"):
        store.get_bytes(JOINED_KEY)
    store.delete(parts[0][0])
    with pytest.raises(ObjectNotFound, match="part_0"):
        store.get(JOINED_KEY)


def test_only_the_key_makes_an_object_a_list(store: Store) -> None:
    (part,) = put_parts(store, b"secret")
    store.join(JOINED_KEY, [part])
    forged = f'{{"parts": [["{part[0]}", 6]]}}'.encode()
    store.put_bytes("files/forged", forged)
    assert store.get_bytes("files/forged") == forged
    for misuse in (
        lambda: store.put_bytes(JOINED_KEY, forged),
        lambda: store.writer(JOINED_KEY),
        lambda: store.join("files/plain", [part]),
        lambda: store.join("files/x.joined", [(JOINED_KEY, 6)]),
        lambda: store.join("files/x.joined", [("../outside", 6)]),
    ):
        with pytest.raises(StoreError, match=r"key|part of another"):
            misuse()
