"""The import arrows and the house rules, held by reading the source. Knows nothing about behaviour."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rootstock", "service", "trainer", "serving")
MAX_LINES = 400
MAX_LOOP_LINES = 250

FORBIDDEN = {
    "rootstock": {"service", "trainer", "serving", "fastapi", "uvicorn", "starlette", "torch", "transformers", "peft"}
    | {"vllm"},
    "service": {"trainer", "serving", "torch", "transformers", "peft", "vllm", "boto3", "botocore"},
    "trainer": {"service", "serving", "fastapi", "uvicorn", "starlette", "vllm", "boto3", "botocore"},
    "serving": {"service", "trainer", "fastapi", "peft", "rq", "sqlalchemy", "alembic", "transformers"},
}
"""Package -> top-level names that none of its modules may import."""

TRAINER_COMPOSERS = {"trainer.worker", "trainer.__main__"}
TRAINER_MAY_SEE = {"records", "defaults", "datasets", "errors", "ids", "adapters", "grading", "release"}
"""The training loop runs by hand from a YAML, so everything but the composers sees only these parts of rootstock."""

SERVING_MAY_SEE = {"settings", "storage", "adapters", "ids", "errors", "records", "telemetry"}
"""What is importable in vLLM's own environment, which holds no database driver."""


def modules(package: str) -> Iterator[tuple[str, Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_level_imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= set(imports(ast.Module(body=[node], type_ignores=[])))
    return names


ALL = [(name, path, tree) for package in PACKAGES for name, path, tree in modules(package)]
SOURCES = [pytest.param(name, path, tree, id=name) for name, path, tree in ALL]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_that_is_imported_is_ours(package: str) -> None:
    # The names are generic: another distribution could shadow them.
    __import__(package)
    assert Path(str(sys.modules[package].__file__)).resolve().is_relative_to(ROOT / package)


@pytest.mark.parametrize(("name", "path", "tree"), SOURCES)
def test_imports_follow_the_arrows(name: str, path: Path, tree: ast.Module) -> None:
    package = name.split(".", maxsplit=1)[0]
    seen = set(imports(tree))
    wrong = {module for module in seen if module.split(".")[0] in FORBIDDEN[package]}
    if name in {"serving.resolver", "serving.__main__"}:
        wrong = {module for module in wrong if not module.startswith("vllm")}
    assert not wrong, f"{name} must not import {sorted(wrong)}"
    ours = {module.split(".")[1] for module in seen if module.startswith("rootstock.")}
    if package == "trainer" and name not in TRAINER_COMPOSERS and not name.startswith("trainer.worker"):
        assert ours <= TRAINER_MAY_SEE, f"{name} must not know rootstock.{sorted(ours - TRAINER_MAY_SEE)}"
    if package == "serving":
        assert ours <= SERVING_MAY_SEE, f"{name} must not know rootstock.{sorted(ours - SERVING_MAY_SEE)}"


def test_vllm_is_imported_only_where_it_is_extended() -> None:
    users = {name for name, _, tree in ALL if any(module.split(".")[0] == "vllm" for module in imports(tree))}
    assert users <= {"serving.resolver", "serving.__main__"}


def test_only_the_bell_and_the_doorbell_know_rq() -> None:
    users = {name for name, _, tree in ALL if any(module.split(".")[0] == "rq" for module in imports(tree))}
    assert users == {"rootstock.bell", "rootstock.doorbell"}


def test_there_are_no_import_cycles() -> None:
    names = {name for name, _, _ in ALL}
    graph = {name: {m for m in module_level_imports(tree) if m in names and m != name} for name, _, tree in ALL}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize(("name", "path", "tree"), SOURCES)
def test_every_module_says_what_it_does_and_stays_small(name: str, path: Path, tree: ast.Module) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (MAX_LOOP_LINES if name == "trainer.loop" else MAX_LINES), f"{name} has {lines} lines: split it"
    if lines and "migrations" not in name:
        assert ast.get_docstring(tree), f"{name} opens without a docstring"


@pytest.mark.parametrize(("name", "path", "tree"), SOURCES)
def test_house_rules(name: str, path: Path, tree: ast.Module) -> None:
    text = path.read_text(encoding="utf-8")
    if name != "rootstock.settings":
        allowed = name.startswith("rootstock.cli") or name in {"serving.__main__", "service.__main__"}
        assert allowed or "os.environ" not in text, f"{name} reads the environment; settings.py does that"
    if name != "rootstock.db":
        assert not re.search(r"\.commit\(", text), f"{name} commits; only rootstock.db does"
    assert "HTTPException" not in text, f"{name}: raise a rootstock.errors class"
    assert "trust_remote_code=True" not in text
    if name != "rootstock.bell" and not name.startswith("trainer"):
        assert "import pickle" not in text
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno} catches everything, also Ctrl-C"


def test_the_loop_is_one_flat_function() -> None:
    tree = ast.parse((ROOT / "trainer" / "loop.py").read_text(encoding="utf-8"))
    # Values, an enum and the one interface it talks to are fine; a trainer class to inherit from is not.
    bases = {ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
    assert bases <= {"StrEnum", "Protocol"}
    assert any(isinstance(node, ast.FunctionDef) and node.name == "train" for node in tree.body)


def test_auto_is_resolved_in_one_place() -> None:
    # "auto" as a hyperparameter value; device and dtype settings are not hyperparameters.
    users = {name for name, path, _ in ALL if name.startswith("trainer") and '"auto"' in path.read_text("utf-8")}
    assert users <= {"trainer.recipe", "trainer.base"}


def test_no_test_is_parametrised_over_a_set() -> None:
    # Sets are ordered differently in each process: the two workers of a run would then collect different tests.
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("parametrize") and len(call.args) > 1:
                values = call.args[1]
                while isinstance(values, ast.BinOp):
                    values = values.left
                made = ast.unparse(values.func) if isinstance(values, ast.Call) else ""
                assert not isinstance(values, ast.Set | ast.SetComp) and made not in ("set", "frozenset"), (
                    f"{path.relative_to(ROOT)}:{call.lineno}: sort what it is parametrised over"
                )
