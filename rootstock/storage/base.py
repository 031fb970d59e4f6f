"""What every store can do, and which keys are allowed. Knows no file system and no network."""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, Self

from rootstock.errors import StoreError

CHUNK_BYTES = 1024 * 1024
"""How much is read or held at a time when an object streams through."""

_MAX_KEY_CHARS = 512
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class Store(Protocol):
    """A flat space of immutable-by-habit objects. Every method may raise `StoreError` when the store is away."""

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store a stream in bounded memory and return its size; visible only when complete."""
        ...

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a small object."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Store a local file, streamed."""
        ...

    def get(self, key: str) -> Iterator[bytes]:
        """The object in chunks. Raises `ObjectNotFound` here, not at the first chunk."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """A small object at once. Raises `ObjectNotFound`."""
        ...

    def size(self, key: str) -> int:
        """Bytes of the object. Raises `ObjectNotFound`."""
        ...

    def list(self, prefix: str) -> list[str]:
        """The keys below `prefix`, sorted. A prefix is a folder: `a/b` does not match `a/bc/d`; `""` lists all."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is absent is fine."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object below the folder `prefix`."""
        ...

    def check(self) -> None:
        """Raise `StoreError` when the store cannot be used now (readiness)."""
        ...

    def writer(self, key: str) -> "Writer":
        """A sink for bytes that arrive in pieces, such as an upload."""
        ...


class Writer(ABC):
    """Push interface of `put`: the object appears at `close()`, and never after `abort()`.

    Example: `with store.writer(key) as sink: sink.write(chunk)`; an exception in the block aborts.
    """

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Take the next bytes; holds back a bounded amount."""

    @abstractmethod
    def close(self) -> None:
        """Make the object visible. Does nothing when already closed or aborted."""

    @abstractmethod
    def abort(self) -> None:
        """Discard everything. Does nothing when already closed or aborted, so it may stand in a `finally`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def checked(key: str) -> str:
    """`key` itself. Raises `StoreError` for one that could leave its place (`..`, `/x`, `.hidden`, NUL, ...)."""
    if len(key) > _MAX_KEY_CHARS or _KEY.fullmatch(key) is None:
        raise StoreError(f"{key[:80]!r} cannot be the key of a stored object.")
    return key


def folder(prefix: str) -> str:
    """`prefix` checked and ending in a slash; the empty prefix stays empty."""
    return checked(prefix.rstrip("/")) + "/" if prefix else ""


def put_all(sink: Writer, chunks: Iterable[bytes]) -> int:
    """Drain `chunks` into `sink`, commit, and return the number of bytes."""
    size = 0
    with sink:
        for chunk in chunks:
            sink.write(chunk)
            size += len(chunk)
    return size


def read_file(path: Path) -> Iterator[bytes]:
    """A file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks with the first one fetched already.

    Errors of opening surface at the call, and a generator that has begun closes its file when it is dropped.
    """
    return itertools.chain([first] if (first := next(chunks, b"")) else [], chunks)
