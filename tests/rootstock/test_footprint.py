"""How much memory a job needs at least."""

from pathlib import Path

import pytest

from rootstock.footprint import GIB, Size, fitting, size_of, training_gib
from rootstock.settings import BUILT_IN_BASE

# The shape of an 8B model: 36 layers of width 4096, of which 6.9 of 8.2 billion weights are linear layers.
LAYER = ((4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (12288, 4096), (12288, 4096), (4096, 12288))
LARGE = Size(8_190_000_000, LAYER * 36, 4096, 36)


def test_the_built_in_base_is_measured_from_its_files() -> None:
    size = size_of(BUILT_IN_BASE)
    assert size is not None
    assert (size.hidden, size.layers) == (256, 4)
    assert len(size.linear) == 4 * 7
    assert size.weights == size.in_linear + 4096 * 256 + 4 * (2 * 256 + 2 * 32) + 256  # embeddings and norms


def test_types_need_what_is_known_of_them() -> None:
    assert 15.5 < training_gib(LARGE, "lora", 16) < 18  # two bytes a weight, and little more
    assert 5 < training_gib(LARGE, "qlora", 16) < 8
    assert 18 * LARGE.weights / GIB <= training_gib(LARGE, "full", 16) < 18 * LARGE.weights / GIB + 1
    assert training_gib(LARGE, "lora", 256) > training_gib(LARGE, "lora", 16)


@pytest.mark.parametrize(
    ("limit", "kinds"), [(4, []), (10, ["qlora"]), (24, ["lora", "qlora"]), (200, ["lora", "qlora", "full"])]
)
def test_what_fits(limit: float, kinds: list[str]) -> None:
    assert fitting(LARGE, limit, 16) == kinds


def test_files_that_do_not_tell_are_no_reason_to_refuse(tmp_path: Path) -> None:
    assert size_of(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    assert size_of(tmp_path) is None
