"""The store of a single machine: a folder. Temporary file, fsync, rename. Knows nothing about S3."""

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from rootstock.errors import ObjectNotFound, StoreError
from rootstock.storage.base import Store, Writer, checked, folder, read_file

log = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"  # keys cannot begin with a dot, so no object can ever be in here
_STALE_SECONDS = 3600.0  # other processes write here too; what nobody has touched for an hour has no writer


class LocalStore(Store):
    """Objects as files below one folder, which several processes may share.

    Example: `LocalStore(Path("rootstock-data/store"))`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with _failing("open the object store"):
            (self.root / _UNFINISHED).mkdir(parents=True, exist_ok=True)
            self._remove_stale()

    def list(self, prefix: str) -> list[str]:
        start = self.root / folder(prefix)
        with _failing(f"list {prefix}"):
            found = [Path(where) / name for where, _, names in os.walk(start) for name in names]
        keys = [path.relative_to(self.root).as_posix() for path in found]
        return sorted(key for key in keys if not key.startswith(_UNFINISHED))

    def delete_alone(self, key: str) -> None:
        path = self._path(key)
        with _failing(f"delete {key}"):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a folder that is not empty stays
                for parent in path.parents:
                    if parent == self.root:
                        break
                    parent.rmdir()

    def check(self) -> None:
        with _failing("write"):
            probe = self._unfinished()
            probe.touch()
            probe.unlink()

    def _writer(self, key: str) -> Writer:
        with _failing(f"store {key}"):
            return _LocalWriter(self._path(key), self._unfinished(), self.root, key)

    def _read(self, key: str) -> Iterator[bytes]:
        with _failing(f"read {key}"):
            yield from read_file(self._path(key))

    def _size(self, key: str) -> int:
        with _failing(f"read {key}"):
            return self._path(key).stat().st_size

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    def _unfinished(self) -> Path:
        return self.root / _UNFINISHED / secrets.token_hex(16)

    def _remove_stale(self) -> None:
        for path in (self.root / _UNFINISHED).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
                    log.info("removed an unfinished object that its writer left behind")


class _LocalWriter(Writer):
    def __init__(self, path: Path, unfinished: Path, root: Path, key: str) -> None:
        self._path, self._unfinished, self._root, self._key = path, unfinished, root, key
        self._file = unfinished.open("xb")

    def write(self, data: bytes) -> None:
        with self._aborting():
            self._file.write(data)

    def close(self) -> None:
        if self._file.closed:
            return
        with self._aborting():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._move()

    def abort(self) -> None:
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink()

    def _move(self) -> None:
        for last_try in (False, False, True):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._unfinished.replace(self._path)
                break
            except FileNotFoundError:  # `delete` removed the folder that it had just emptied
                if last_try:
                    raise
        for parent in self._path.parents:
            _sync_folder(parent)
            if parent == self._root:
                break

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        with _failing(f"store {self._key}"):
            try:
                yield
            except BaseException:
                self.abort()
                self._unfinished.unlink(missing_ok=True)
                raise


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _failing(task: str) -> Iterator[None]:
    # A path is nothing for a client to see, so the message names the object only; the cause goes to the log.
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ObjectNotFound(f"The object store could not {task}: it is not there.") from error
    except OSError as error:
        raise StoreError(f"The object store could not {task}: {error.strerror or 'input/output error'}.") from error
