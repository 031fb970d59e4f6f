"""The process of the WASM sandbox. Started by path with `-I`; speaks as `python_child` does.

Every call gets a new instance of the component, so nothing is left of the one before. The component can do nothing: no
folder, no address, no variable is given to it. Its memory is bounded here; its time by whoever started this process,
and should that one die, by the limits that this one has set itself. Whatever this machine has of the guards of
`python_child` holds as a second wall; none of them is needed.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from wasmtime import Config, Engine, ExitTrap, Store, Trap, WasiConfig, WasmtimeError
from wasmtime.component import Component, Linker

sys.path.insert(0, str(Path(__file__).resolve().parent))
import python_child

_ANSWER_CHARS = 60_000
_STACK = 3 << 19  # under the engine's 2 MB; with its usual half, nesting meets the engine's end before CPython's own
_NOTHING = ("def grade(sample, item): return 0", "{}", "{}")


def main() -> None:
    """Read the source, then answer one request per line until the other side is gone."""
    compiled, channel, memory, cpu_seconds, _ = sys.argv[1], *(int(word) for word in sys.argv[2:])
    requests, answers = os.fdopen(channel, "rb"), os.fdopen(os.dup(channel), "wb")
    source = json.loads(requests.readline())
    config = Config()
    config.max_wasm_stack = _STACK
    engine = Engine(config)
    linker = Linker(engine)
    linker.add_wasip2()
    try:
        component = Component.deserialize_file(engine, compiled)
        _graded(engine, linker, component, memory, _NOTHING)  # what the engine opens, it opens now, with our rights
    except WasmtimeError:  # a damaged file, or one for other processors: not the source's doing
        _send(answers, {"held": {"wasm": False}})
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    python_child.confine(Path.cwd())
    _send(answers, {"held": {"wasm": True}})
    for line in requests:
        signal.alarm(cpu_seconds)  # a source that sleeps uses no CPU time
        request = json.loads(line)
        given = (source, json.dumps(request["sample"]), json.dumps(request["item"]))
        _send(answers, {"id": request["id"], **_graded(engine, linker, component, memory, given)})


def _graded(engine: Engine, linker: Linker, component: Component, memory: int, given: tuple[str, ...]) -> Any:
    with Store(engine) as store:
        store.set_limits(memory_size=memory)
        store.set_wasi(WasiConfig())
        try:
            grade = linker.instantiate(store, component).get_func(store, "grade")
            assert grade is not None
            said = grade(store, *given)
        except ExitTrap:
            return {"error": "It ended its interpreter."}
        except (WasmtimeError, Trap):
            return {"error": "It broke its interpreter; memory is limited."}
    try:
        answer = json.loads(said) if isinstance(said, str) and len(said) < _ANSWER_CHARS else None
    except (ValueError, RecursionError):
        answer = None
    return answer if isinstance(answer, dict) else {}


def _send(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
