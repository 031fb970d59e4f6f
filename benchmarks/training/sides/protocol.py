"""How the conductor talks to a side: one JSON command a line on stdin, one JSON answer a line on stdout.

Knows nothing about training.
"""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[..., dict[str, Any]]


def serve(connect: Callable[[Path], dict[str, Handler]]) -> None:
    """Answer commands `{"do": name, ...}` until stdin ends.

    `connect` imports what the side needs and returns its handlers; memory is counted from when it returns. Whatever
    a library prints goes to stderr, so that stdout carries answers only.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="the folder that benchmarks.training.work wrote")
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    handlers = connect(given.work)

    import torch

    from benchmarks.training.measure import peak_mb, resident_mb

    torch.set_num_threads(1)
    imports = resident_mb()
    print(json.dumps({"ready": True, "versions": _versions(), "imports_mb": imports}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = handlers[command.pop("do")](**command) | {"peak_above_imports_mb": peak_mb() - imports}
        except Exception as error:  # the conductor reports it and goes on with other figures
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("torch", "transformers", "peft", "accelerate", "trl"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
