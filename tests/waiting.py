"""Waiting for what another thread or process will have done. Knows nothing about what it is."""

import time
from collections.abc import Callable
from typing import Any


def eventually(condition: Callable[[], Any], seconds: float = 110.0) -> Any:
    """The first true value of `condition`; a failure of the test when there is none in time.

    The time is how long a busy machine may take, not how long it should: a passing test never waits it out.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it never happened within {seconds:.0f} s"
        time.sleep(0.03)
    return found
