"""Documentation that follows from code is compared with the code; README commands and links must exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from rootstock.cli.app import app as rootstock_cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("openapi/*.md")])


def test_reference_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.docs", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_error_class_is_in_the_drawing() -> None:
    from rootstock import errors

    drawing = (errors.__doc__ or "").split("In a request")[0]
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.RootstockError):
            assert re.search(rf"\b{name}\b", drawing), f"{name} is missing from the tree drawn in errors.py"


def test_every_code_of_a_failed_job_is_explained() -> None:
    from scripts.docs import JOB_CODES

    sources = [path for part in ("rootstock", "service", "trainer") for path in (ROOT / part).rglob("*.py")]
    named = {code for path in sources for code in re.findall(r'JobFailure\(\s*"(\w+)"', path.read_text("utf-8"))}
    assert named and named <= set(JOB_CODES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_make_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", text, re.MULTILINE):
        assert target in targets, f"{page.name} names `make {target}`"


def test_readme_tree_names_every_top_level_folder() -> None:
    tree = (ROOT / "README.md").read_text("utf-8").split("rootstock/    the subject")[1]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line}
    for folder in folders - {".ci", "scripts", "requirements", "constraints", "rootstock"}:
        assert f"{folder}/" in tree, f"README's tree does not name {folder}/"


def test_readme_python_parses_and_uses_only_the_sdk() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        assert set(re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE)) <= {"openai"}


def test_rootstock_commands_in_pages_exist_with_their_options() -> None:
    found = 0
    for page in PAGES:
        blocks = re.findall(r"```\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        for line in "\n".join(blocks).splitlines():
            if not (match := re.search(r"(?:^|/)rootstock ([a-z].*)", line.split("  #")[0])):
                continue
            found += 1
            words = shlex.split(match[1])
            command: Any = typer.main.get_command(rootstock_cli)
            while words and hasattr(command, "commands"):
                assert words[0] in command.commands, f"{page.name}: {line}"
                command = command.commands[words.pop(0)]
            known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
            asked = {word.split("=")[0] for word in words if word.startswith("-")}
            assert asked <= known, f"{page.name}: {line}"
    assert found > 5


def test_nothing_names_this_machine() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, tracked):
        path = ROOT / name.decode()
        if path.suffix in {".safetensors", ".json"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        assert not re.search(r"(?:/home/|/Users/|/work/|/opt/wheel|file://)\w", text), f"{path} names a local path"
