"""Whether processes have ended, for tests that start and kill real ones."""

import time

import psutil

SECONDS = 20.0


def gone(*process_ids: int) -> bool:
    """Whether all of them end soon; one that nobody has reaped yet has ended too."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if not any(map(runs, process_ids)):
            return True
        time.sleep(0.02)
    return False


def runs(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
