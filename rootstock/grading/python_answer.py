"""A customer's source as a module, and what its `grade` answers, as JSON values. The same inside every sandbox.

Imports the standard library only, and little of it: the sandboxes load this file by itself.
"""

import numbers
import sys
import types
from typing import Any

_MODULE = "grader"


def load(source: str) -> types.ModuleType:
    """The source, run as a module. Raises whatever it raises."""
    module = types.ModuleType(_MODULE)
    sys.modules[_MODULE] = module
    exec(compile(source, _MODULE, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what sandboxes are for
    return module


def graded(module: types.ModuleType, sample: Any, item: Any) -> dict[str, Any]:
    """`value`, or `error` where there is none."""
    try:
        value = module.grade(sample, item)
        number = isinstance(value, numbers.Real) or type(value).__name__ == "Decimal"
        if isinstance(value, bool) or not number:  # numpy's bool is no Real
            return {"error": f"'grade' returned a {type(value).__name__}, not a number."}
        return {"value": float(value)}
    except BaseException as error:
        return {"error": described(error)}


def described(error: BaseException) -> str:
    """What went wrong, and in which line of the source."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _MODULE:
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    where = f" (line {line})" if line is not None else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"
