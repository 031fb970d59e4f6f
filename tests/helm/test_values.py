"""The chart's values, as far as they can be judged without Helm; `make chart` renders them with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # through moto
import pytest
import yaml

from rootstock.settings import Settings
from scripts.chart import schema

CHART = Path(__file__).resolve().parents[2] / "helm"
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
SETTINGS = SCHEMA["properties"]["settings"]["properties"]
FILES = [CHART / "values.yaml", *sorted((CHART / "ci").glob("*.yaml"))]


def nodes(node: dict[str, Any], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield where, node
    for key, child in (node.get("properties", {}) | node.get("definitions", {})).items():
        yield from nodes(child, f"{where}/{key}")
    if isinstance(node.get("items"), dict):
        yield from nodes(node["items"], f"{where}/items")


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(("where", "node"), [pytest.param(*found, id=found[0] or "/") for found in nodes(SCHEMA)])
def test_objects_with_keys_of_ours_are_closed_and_everything_is_described(where: str, node: dict[str, Any]) -> None:
    if "properties" in node:
        assert node["additionalProperties"] is False
    if where and not where.endswith("/items"):
        assert "$ref" in node or len(node["description"]) > 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_fit_the_schema(path: Path) -> None:
    jsonschema.validate(load(path), SCHEMA, cls=jsonschema.Draft7Validator)


def test_every_key_of_the_schema_has_a_default_or_is_a_setting() -> None:
    def keys(node: dict[str, Any], values: dict[str, Any], where: str) -> Iterator[str]:
        for key, entry in node.get("properties", {}).items():
            child = SCHEMA["definitions"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry
            if f"{where}/{key}" in ("/settings", "/global") or where.endswith("/resources"):
                continue
            if key not in values:
                yield f"{where}/{key}"
            elif isinstance(values[key], dict):
                yield from keys(child, values[key], f"{where}/{key}")

    assert list(keys(SCHEMA, load(CHART / "values.yaml"), "")) == []


class TestSettings:
    def test_the_schema_is_what_the_settings_class_makes_of_it(self) -> None:
        written = (CHART / "values.schema.json").read_text(encoding="utf-8")
        assert written == schema.render(), "run: .venv/bin/python -m scripts.chart.schema"

    def test_every_setting_is_the_users_the_charts_or_a_secret(self) -> None:
        assert set(SETTINGS) == set(Settings.model_fields) - schema.SET_BY_THE_CHART - schema.FROM_SECRETS

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_the_processes_accept_what_the_chart_hands_them(self, path: Path) -> None:
        given = load(path)["settings"]
        environment = {
            f"ROOTSTOCK_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in given.items()
        }
        read = Settings.from_env(environment)
        assert {name: getattr(read, name) for name in given} == given


def test_every_variable_in_the_templates_is_a_setting() -> None:
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            for word in path.read_text(encoding="utf-8").replace(":", " ").split():
                if word.startswith("ROOTSTOCK_") and "{{" not in word and word != "ROOTSTOCK_":
                    assert word.removeprefix("ROOTSTOCK_").lower() in Settings.model_fields, f"{path.name}: {word}"


def test_the_chart_names_no_secret_value() -> None:
    defaults = load(CHART / "values.yaml")["secrets"]
    assert all(key.endswith(("Secret", "Key", "KeyKey")) for store in defaults.values() for key in store)


def test_names_are_made_in_one_file() -> None:
    for path in (CHART / "templates").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert ".Release.Name" not in text, f"{path.name} makes a name of its own"
