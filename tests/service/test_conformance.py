"""The conformance table names what the official SDK has today, and every gap in it has a reason."""

import re

import pytest
from openai import OpenAI

from scripts.api.conformance import BEGIN, END, HONOURED, README, measure, percentage
from scripts.api.live import live
from scripts.api.operations import CALLS, is_later, upstream

LEAST = 98.0
OPERATIONS = set(upstream(OpenAI(api_key="none")))


def section() -> list[list[str]]:
    """The cells of the table's rows."""
    text = README.read_text("utf-8").split(BEGIN)[1].split(END)[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][2:]


def test_every_operation_in_scope_is_called():
    assert set(CALLS) == {name for name in OPERATIONS if not is_later(name)}


def test_the_table_names_exactly_the_operations_of_the_sdk():
    assert {row[0].strip("`") for row in section() if row[0]} == OPERATIONS, "run: make conformance"


def test_what_is_not_honoured_says_why():
    for _, _, field, status, why in section():
        assert status == HONOURED or why, f"{field}: {status} without a reason"
        assert not re.search("unexplained", why), f"{field}: {why}"


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_live_server_is_as_conformant_as_the_table_says():
    with live() as api:
        rows = measure(api)
    honoured = {row.operation for row in rows if row.status == HONOURED}
    lost = {row[0].strip("`") for row in section() if row[0] and row[3] == HONOURED} - honoured
    assert not lost, [f"{row.operation}: {row.why}" for row in rows if row.operation in lost]
    assert percentage(rows) >= LEAST
