"""What every store can do, and which keys are allowed. Knows no file system and no network.

An object is either its own bytes or, when its key ends in `.joined`, a list of other objects whose bytes follow one
another. The key alone tells which, so nothing a client uploads can ever be taken for a list.
"""

import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from rootstock.errors import ObjectNotFound, StoreError

CHUNK_BYTES = 1024 * 1024
"""How much is read or held at a time when an object streams through."""

JOINED = ".joined"
"""How the key of a joined object ends."""

_MAX_KEY_CHARS = 512
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class Store(ABC):
    """A flat space of immutable-by-habit objects. Every method may raise `StoreError` when the store is away.

    A back end knows objects that are their own bytes; that an object may be a list of others is said here, once.
    """

    def put(self, key: str, chunks: Iterable[bytes]) -> int:
        """Store a stream in bounded memory and return its size; visible only when complete."""
        return _put_all(self.writer(key), chunks)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store a small object."""
        self.put(key, [data])

    def put_file(self, key: str, path: Path) -> None:
        """Store a local file, streamed."""
        self.put(key, read_file(path))

    def writer(self, key: str) -> "Writer":
        """A sink for bytes that arrive in pieces, such as an upload."""
        if key.endswith(JOINED):
            raise StoreError(f"{key[:80]!r} cannot be the key of an object that is not joined.")
        return self._writer(key)

    def join(self, key: str, parts: Sequence[tuple[str, int]]) -> None:
        """Make stored objects one: `parts` are their keys and sizes in order. No byte of them is read or copied.

        `key` must end in `.joined`. The parts belong to the new object from then on.
        """
        if not key.endswith(JOINED):
            raise StoreError(f"{key[:80]!r} cannot be the key of a joined object.")
        listed = [[checked(part), size] for part, size in parts]
        if any(part.endswith(JOINED) for part, _ in parts):
            raise StoreError("A joined object cannot be a part of another.")
        _put_all(self._writer(key), [json.dumps({"parts": listed}).encode()])

    def get(self, key: str) -> Iterator[bytes]:
        """The object in chunks. Raises `ObjectNotFound` here, not at the first chunk."""
        return _begun(self._read_joined(key)) if key.endswith(JOINED) else _begun(self._read(key))

    def get_bytes(self, key: str) -> bytes:
        """A small object at once. Raises `ObjectNotFound`."""
        return b"".join(self.get(key))

    def size(self, key: str) -> int:
        """Bytes of the object. Raises `ObjectNotFound`."""
        return sum(size for _, size in self._parts(key)) if key.endswith(JOINED) else self._size(key)

    @abstractmethod
    def list(self, prefix: str) -> list[str]:
        """The keys below `prefix`, sorted. A prefix is a folder: `a/b` does not match `a/bc/d`; `""` lists all.

        A joined object's own key and those of its parts are all listed.
        """

    def delete(self, key: str) -> None:
        """Remove an object, its parts included; one that is absent is fine."""
        if key.endswith(JOINED):
            try:
                parts = self._parts(key)
            except ObjectNotFound:
                return
            for part, _ in parts:  # the list goes last: a deletion that was broken off can be repeated
                self.delete_alone(part)
        self.delete_alone(key)

    @abstractmethod
    def delete_alone(self, key: str) -> None:
        """Like `delete`, but of a joined object only the list goes and its parts stay."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object below the folder `prefix`, and nothing outside it."""
        if not prefix:
            raise StoreError("Deleting every stored object at once is refused.")
        # One by one: folders are small, and servers disagree about the checksum of an S3 DeleteObjects request.
        for key in self.list(prefix):
            self.delete_alone(key)

    @abstractmethod
    def check(self) -> None:
        """Raise `StoreError` when the store cannot be used now (readiness)."""

    @abstractmethod
    def _writer(self, key: str) -> "Writer": ...

    @abstractmethod
    def _read(self, key: str) -> Iterator[bytes]: ...

    @abstractmethod
    def _size(self, key: str) -> int: ...

    def _parts(self, key: str) -> Sequence[tuple[str, int]]:
        found = json.loads(b"".join(self._read(key)))
        return [(part, size) for part, size in found["parts"]]

    def _read_joined(self, key: str) -> Iterator[bytes]:
        for part, size in self._parts(key):
            read = 0
            for chunk in self._read(part):
                read += len(chunk)
                yield chunk
            if read != size:  # gone for good, like an object that is not there
                raise ObjectNotFound(f"The object store could not read {key}: {part} has {read} bytes, not {size}.")


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


def read_file(path: Path) -> Iterator[bytes]:
    """A file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _put_all(sink: Writer, chunks: Iterable[bytes]) -> int:
    size = 0
    with sink:
        for chunk in chunks:
            sink.write(chunk)
            size += len(chunk)
    return size


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    # Errors of opening surface at the call, and a generator that has begun closes its file when it is dropped.
    return itertools.chain([first] if (first := next(chunks, b"")) else [], chunks)
