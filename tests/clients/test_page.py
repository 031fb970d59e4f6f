"""The list of third-party clients, their scripts and the committed results agree. Starts no client."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.clients.run import Outcome, clean, page, pins

HERE = Path(__file__).resolve().parent
PAGE = (HERE.parent.parent / "docs" / "clients.md").read_text("utf-8")
FLOWS = {path.name for path in (HERE / "flows").iterdir() if path.suffix in {".py", ".sh", ".mjs"}}
ROWS = {cells[1]: cells for line in PAGE.splitlines() if len(cells := [c.strip() for c in line.split("|")]) == 8}
"""Name of a client -> the cells of its row."""


def test_every_script_has_a_pin_and_every_pin_a_script() -> None:
    assert {pin["flow"] for pin in pins().values()} == FLOWS


@pytest.mark.parametrize("name", pins())
def test_versions_are_exact(name: str) -> None:
    pin = pins()[name]
    for requirement in pin.get("python", []):
        assert re.fullmatch(r"[\w.-]+==[\w.+]+", requirement)
    for requirement in pin.get("npm", []):
        assert re.fullmatch(r"[@\w./-]+@\d+\.\d+\.\d+", requirement)
    assert ("python" in pin) != ("npm" in pin)


@pytest.mark.parametrize("name", pins())
def test_the_committed_page_shows_every_client_at_the_version_that_is_pinned(name: str) -> None:
    pin = pins()[name]
    package, version = re.split(r"==|(?<=.)@", (pin.get("python") or pin["npm"])[0])
    row = ROWS[name]
    assert f"flows/{pin['flow']})" in row[3]
    if "could not be installed" not in row[5]:
        assert row[2].startswith(f"{package} {version}"), "run `make clients` and commit docs/clients.md with the pins"


def test_the_page_counts_what_it_shows() -> None:
    found = re.search(r"\*\*(\d+) of (\d+) passed\*\*", PAGE)
    assert found and set(ROWS) == {"client", "---"} | set(pins())
    results = [row[5] for name, row in ROWS.items() if name in pins()]
    assert (int(found[1]), int(found[2])) == (sum(result.startswith("passed") for result in results), len(pins()))


@pytest.mark.parametrize("flow", sorted(name for name in FLOWS if name.endswith(".py")))
def test_scripts_import_nothing_of_ours(flow: str) -> None:
    tree = ast.parse((HERE / "flows" / flow).read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"rootstock", "service", "trainer", "serving", "tests", ""}
    assert flow.removesuffix(".py") not in sys.stdlib_module_names


def test_a_failure_is_shown_as_one_and_not_counted() -> None:
    outcomes = [
        Outcome("a", "a 1", "a.py", "asks", True, "passed", 1.0),
        Outcome("b", "none", "b.py", "asks", False, "**not run**, could not be installed: x|y", 0.0),
    ]
    text = page(outcomes, "abc", 2.0)
    assert "**1 of 2 passed**" in text and "could not be installed: x&#124;y" in text


def test_reasons_do_not_name_this_machine() -> None:
    assert clean("error in /tmp/x/y.py:\n  line", {"/tmp/x": ""}) == "error in /y.py: line"
    assert len(clean("x" * 1000, {})) == 200
