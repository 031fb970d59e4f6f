"""Where customers' Python runs: processes without rights where this machine has them, Python in WASM elsewhere.

The one place that decides; `python_runner` then starts what it says. Knows no graders.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rootstock.grading.python_runner import PROCESS, PythonRunner, Sandbox, Unsafe
from rootstock.grading.wasm_component import NoComponent, component, installed

Mode = Literal["auto", "process", "wasm"]

WASM_CHILD = Path(__file__).with_name("wasm_child.py")
WASM_MEMORY_BYTES = 512 << 20


def open_runner(folder: Path, mode: Mode = "auto", *, children: int = 2) -> PythonRunner:
    """A runner in the sandbox that is wanted, which is looked for at the first call; `folder` is for WASM's component.

    `auto` is a process where all its guards hold, else WASM where its packages are; where neither is, it refuses.
    """
    return PythonRunner(children=children, sandbox=_chooser(mode, folder))


def wasm(folder: Path) -> Sandbox:
    """The WASM sandbox with its component in `folder`. Raises `Unsafe` where it cannot be had."""
    try:
        compiled = component(folder)
    except NoComponent as lacking:
        raise Unsafe(str(lacking)) from None
    return Sandbox((str(WASM_CHILD), str(compiled)), memory_bytes=WASM_MEMORY_BYTES)


def _chooser(mode: Mode, folder: Path) -> Callable[[], Sandbox]:
    @functools.cache
    def choose() -> Sandbox:
        if mode == "wasm" or (mode == "auto" and installed() and not _confined()):
            return wasm(folder)
        return PROCESS

    return choose


@functools.cache
def _confined() -> bool:
    """Whether processes can give up all their rights on this machine."""
    with PythonRunner(children=1) as runner:
        held = runner.guards()
    return bool(held) and all(held.values())
