"""Lines of training data for tests, and the check run over them in one go."""

import json
from typing import Any

from rootstock.datasets import Checker
from rootstock.records import DataCheck

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
GOOD = json.dumps({"messages": [USER, ASSISTANT]}).encode()
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PREFERENCE = {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": [ASSISTANT]}

FILE = "invalid_training_file"
FORMAT = "invalid_file_format"


def check(data: bytes, max_line_bytes: int = 1 << 20) -> DataCheck:
    checker = Checker(max_line_bytes)
    checker.feed(data)
    return checker.finish()


def chat(*messages: Any, **top: Any) -> bytes:
    return json.dumps({"messages": list(messages), **top}).encode()


def the_fault(line: bytes) -> tuple[str, str]:
    """Code and message of the one fault of this line, found as the second example of a file."""
    found = check(GOOD + b"\n" + line + b"\n" + GOOD)
    assert found.examples == 2, "the lines around a fault are checked all the same"
    assert found.faults_total == 1
    assert found.faults[0].line == 2
    return found.faults[0].code, found.faults[0].message


def calling(function: Any) -> bytes:
    return chat(USER, {"role": "assistant", "tool_calls": [{**CALL, "function": function}]})
