"""The process of the WASM sandbox. Started by path with `-I`; speaks as `python_child` does.

Every call gets a new instance of the component, so nothing is left of the one before. The component can do nothing: no
folder, no address, no variable is given to it. Its memory is bounded here; its time by whoever started this process.
"""

import json
import os
import sys
from typing import Any

from wasmtime import Engine, ExitTrap, Store, Trap, WasiConfig, WasmtimeError
from wasmtime.component import Component, Linker

_ANSWER_CHARS = 60_000


def main() -> None:
    """Read the source, then answer one request per line until the other side is gone."""
    compiled, channel, memory, _, _ = sys.argv[1], *(int(word) for word in sys.argv[2:])
    requests, answers = os.fdopen(channel, "rb"), os.fdopen(os.dup(channel), "wb")
    source = json.loads(requests.readline())
    engine = Engine()
    linker = Linker(engine)
    linker.add_wasip2()
    component = Component.deserialize_file(engine, compiled)
    _send(answers, {"held": {"wasm": True}})
    for line in requests:
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
