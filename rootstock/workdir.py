"""A private folder for one job's files, gone when the job is, also when the process was killed in the middle of it.

Knows nothing about what lies in it.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def workdir(root: Path) -> Iterator[Path]:
    """A fresh folder below `root` that only this user may enter; removed afterwards.

    Folders that dead processes left behind are removed first: they hold customers' data. Who is alive is told by a
    lock on the folder, which the kernel gives up with the process.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        # One at a time: between its making and its locking a folder looks like one that was left behind.
        with _alone_in(root):
            for old in root.iterdir():
                with contextlib.suppress(OSError), _locked(old):
                    shutil.rmtree(old, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix="job-", dir=root))  # mode 0700
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            held.enter_context(_locked(folder))
        yield folder


@contextlib.contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
