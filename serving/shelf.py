"""A folder of adapters that several processes share: who needs which one, how full it is, what goes when it is full.

Who may read an adapter again holds a lock on it, which the kernel lets go when the process dies, so that no other
removes what a vLLM still needs. Knows nothing about vLLM, or about what an adapter is made of.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import struct
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from rootstock import ids, telemetry

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
"""Where adapters are made and taken apart; no adapter id begins with a dot."""

_LOCKS = ".locks"
_STALE_SECONDS = 3600.0
_TOUCH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An adapter on the shelf."""

    adapter_id: str
    bytes: int
    used_at: float


class Shelf:
    """One process's view of the folder. `limit` is in bytes, 0: none. Threads may share it.

    Locks are ranges of one byte of one file ("open file description" locks of Linux), a range for each adapter: any
    number of adapters costs one file descriptor.
    """

    def __init__(self, folder: Path, limit: int = 0) -> None:
        self.folder = folder
        self.limit = limit
        (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        # Two descriptions of one file, so that what this process holds keeps its own removals away too.
        self._holding, self._removing = (os.open(folder / _LOCKS, os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
        self._one_removes = threading.Lock()
        self._touched: dict[str, float] = {}
        self._remove_stale()

    def path(self, adapter_id: str) -> Path:
        """Where the adapter lies if it is here."""
        return self.folder / adapter_id

    def scratch(self, adapter_id: str) -> Path:
        """A place of one's own to make an adapter; `place` moves it from there."""
        return self.folder / UNFINISHED / f"{adapter_id}-{secrets.token_hex(8)}"

    def place(self, scratch: Path, adapter_id: str) -> Path:
        """Make a finished adapter visible, at once and whole; another process may have been first with its own."""
        path = self.path(adapter_id)
        try:
            scratch.rename(path)
        except OSError:
            if not path.exists():
                raise
        sync(self.folder)
        return path

    def hold(self, adapter_id: str) -> None:
        """Keep the adapter from being removed by anybody until `let_go`. Waits for a removal that has begun."""
        _lock(self._holding, fcntl.F_RDLCK, adapter_id, wait=True)

    def let_go(self, adapter_id: str) -> None:
        """This process will not read the adapter again without holding it anew."""
        _lock(self._holding, fcntl.F_UNLCK, adapter_id)

    def touch(self, adapter_id: str) -> None:
        """The adapter is used now: others go before it."""
        now = time.monotonic()
        if now - self._touched.get(adapter_id, float("-inf")) > _TOUCH_SECONDS:
            self._touched[adapter_id] = now
            with contextlib.suppress(OSError):  # it is on its way here
                os.utime(self.path(adapter_id))

    def entries(self) -> list[Entry]:
        """Every adapter that lies here, the one that was longest unused first."""
        found = []
        for path in self.folder.iterdir():
            if ids.is_adapter_id(path.name):
                with contextlib.suppress(OSError):  # removed meanwhile
                    size = sum(file.stat().st_size for file in path.iterdir())
                    found.append(Entry(path.name, size, path.stat().st_mtime))
        telemetry.ADAPTERS_CACHED.set(len(found))
        telemetry.ADAPTER_CACHE_BYTES.set(sum(entry.bytes for entry in found))
        return sorted(found, key=lambda entry: entry.used_at)

    def make_room(self, needed: int, spare: Callable[[str], bool] = lambda _: True) -> bool:
        """Remove what was longest unused until `needed` bytes more stay within the limit; whether they do.

        What somebody holds stays. `spare` may let go of an adapter of this process, and says whether it can go.
        """
        if not self.limit:
            return True
        with self._one_removes:
            entries = self.entries()
            total = sum(entry.bytes for entry in entries)
            for entry in entries:
                if total + needed <= self.limit:
                    break
                if spare(entry.adapter_id) and self.remove(entry.adapter_id):
                    total -= entry.bytes
                    telemetry.ADAPTER_EVICTIONS.inc()
        return total + needed <= self.limit

    def remove(self, adapter_id: str) -> bool:
        """Remove an adapter unless anybody holds it; whether it is gone."""
        if not _lock(self._removing, fcntl.F_WRLCK, adapter_id):
            return False
        away = self.scratch(adapter_id)
        try:
            self.path(adapter_id).rename(away)
        except FileNotFoundError:
            return True
        finally:
            _lock(self._removing, fcntl.F_UNLCK, adapter_id)
        self._touched.pop(adapter_id, None)
        shutil.rmtree(away, ignore_errors=True)
        return True

    def replace(self, scratch: Path, adapter_id: str) -> Path:
        """Put a whole adapter where a damaged one lies. Files that somebody has open stay readable to them."""
        away = self.scratch(adapter_id)
        self.path(adapter_id).rename(away)
        path = self.place(scratch, adapter_id)
        shutil.rmtree(away, ignore_errors=True)
        return path

    def close(self) -> None:
        """Let go of everything."""
        for handle in (self._holding, self._removing):
            os.close(handle)

    def _remove_stale(self) -> None:
        for scratch in (self.folder / UNFINISHED).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - scratch.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(scratch, ignore_errors=True)


def oldest(used: dict[str, float], keep: int, but: Collection[str]) -> list[str]:
    """Of the adapters by their last use those that are more than `keep`, the oldest first, without those in `but`."""
    in_order = sorted(used, key=used.__getitem__)
    return [name for name in in_order[: max(0, len(in_order) - keep)] if name not in but]


def _lock(handle: int, kind: int, adapter_id: str, *, wait: bool = False) -> bool:
    # Two adapters of one hash would only stay longer than they need.
    start = int.from_bytes(hashlib.sha256(adapter_id.encode()).digest()[:7])
    wish = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 1, 0)
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, wish)
    except BlockingIOError:
        return False
    return True


def sync(folder: Path) -> None:
    """Make sure that the names in the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
