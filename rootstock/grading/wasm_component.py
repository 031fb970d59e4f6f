"""The component that the WASM sandbox runs: Python for WASI and `wasm_guest`, built and compiled once for a machine.

Building takes the packages of the extra `wasm`, half a minute and 55 MB of disk. Knows no graders.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

_HERE = Path(__file__).parent
_PARTS = ("wasm_grading.wit", "wasm_guest.py", "python_answer.py")
_COMPILE = """
import pathlib, sys, wasmtime
from wasmtime.component import Component
config = wasmtime.Config()
if sys.argv[1]:
    config.target = sys.argv[1]
made = Component.from_file(wasmtime.Engine(config), "grader.wasm")
pathlib.Path("grader.cwasm").write_bytes(made.serialize())
"""
_PLAIN_CPU = {
    ("linux", "x86_64"): "x86_64-unknown-linux-gnu",
    ("linux", "aarch64"): "aarch64-unknown-linux-gnu",
}
"""Any processor of the kind, not only the one at hand: machines that differ may share the folder."""

_MISSING = (
    "The WASM sandbox needs the packages of the extra 'wasm' to build its component: pip install 'rootstock[wasm]'."
)


class NoComponent(Exception):
    """There is none and none can be built; the message says what to do."""


def installed() -> bool:
    """Whether a component can be run here: that the packages are there."""
    return importlib.util.find_spec("wasmtime") is not None


def component(folder: Path) -> Path:
    """The compiled component in `folder`, built there if it is not yet; processes that need it at once wait.

    Raises `NoComponent`.
    """
    if not installed():
        raise NoComponent(_MISSING)
    found = folder / f"grader-{_digest()}.cwasm"
    if found.is_file():
        return found
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not found.is_file():
                _build(folder, found)
    except OSError as error:
        raise NoComponent(f"The WASM sandbox's component cannot be built in {folder}: {error}.") from None
    return found


def _build(folder: Path, found: Path) -> None:
    """Build, compile, and put in place in one step."""
    if importlib.util.find_spec("componentize_py") is None:
        raise NoComponent(_MISSING)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for name in _PARTS:
            shutil.copy(_HERE / name, work)
        run = "import sys; from componentize_py import script; sys.exit(script())"
        command = ["-d", "wasm_grading.wit", "-w", "grading", "componentize", "wasm_guest", "-o", "grader.wasm"]
        done = subprocess.run(
            [sys.executable, "-c", run, *command], cwd=work, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise NoComponent(f"The WASM sandbox's component cannot be built: {(done.stderr or done.stdout)[-500:]}")
        # In a process of its own: a compiler's quarter of a gigabyte would stay with the service.
        compiling = [sys.executable, "-c", _COMPILE, _PLAIN_CPU.get((sys.platform, platform.machine()), "")]
        done = subprocess.run(compiling, cwd=work, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoComponent(f"The WASM sandbox's component cannot be compiled: {done.stderr[-500:]}")
        os.replace(Path(work) / "grader.cwasm", found)
    for old in folder.glob("grader-*.cwasm"):
        if old != found:
            with contextlib.suppress(OSError):
                old.unlink()


def _digest() -> str:
    """Of all that the compiled form depends on."""
    machine = f"{metadata.version('wasmtime')} {platform.machine()} {sys.platform}"
    seen = hashlib.sha256(f"{machine} {_PLAIN_CPU} {_COMPILE}".encode())
    for name in _PARTS:
        seen.update((_HERE / name).read_bytes())
    return seen.hexdigest()[:16]
