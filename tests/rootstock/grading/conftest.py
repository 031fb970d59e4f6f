"""The two sandboxes of Python graders, for what must hold in both."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rootstock.grading import PythonRunner, Sample, compile_grader, python_child, sandbox
from rootstock.grading.python_runner import PROCESS, Sandbox

HEAD = "import os, sys\ndef grade(sample, item):\n    "


def graded(runner: PythonRunner, body: str, item: Any = None, text: str = "text", head: str = HEAD) -> Any:
    """What a source whose `grade` has this body makes of a sample."""
    grader = compile_grader({"type": "python", "source": head + body}, python=runner)
    return grader.grade(item or {}, Sample.of(text, tools=[{"id": "t"}], choices=[{"index": 0}]), None)


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    """Where the WASM component is: kept between runs, for it takes half a minute to build."""
    return request.config.cache.mkdir("wasm")  # type: ignore[union-attr]


@pytest.fixture(scope="module", params=["process", pytest.param("wasm", marks=pytest.mark.integration)])
def confined(request: pytest.FixtureRequest) -> Callable[[], Sandbox]:
    """Each sandbox in turn."""
    if request.param == "process":
        return lambda: PROCESS
    kept = request.getfixturevalue("folder")
    return lambda: sandbox.wasm(kept)


@pytest.fixture(scope="module")
def either(confined: Callable[[], Sandbox]) -> Iterator[PythonRunner]:
    """A runner in each sandbox in turn."""
    with PythonRunner(seconds=30, sandbox=confined) as python:
        yield python


@pytest.fixture
def bare(tmp_path: Path) -> Sandbox:
    """A process on a machine that has no seccomp."""
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(python_child.__file__).parent)!r})\nimport python_child\n"
        "python_child._seccomp = lambda libc: False\npython_child.main()\n"
    )
    return Sandbox((str(script),), memory_bytes=2 << 30)
