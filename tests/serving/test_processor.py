"""What is read from Linux's description of a CPU."""

from pathlib import Path

import pytest

from serving.processor import computes_bfloat16


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu sse2 avx2 fma", False),
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni", False),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16", True),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("Features\t: fp asimd crc32", False),
    ],
)
def test_bfloat16_is_for_cpus_that_multiply_it(tmp_path: Path, line: str, native: bool) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(f"processor\t: 0\nmodel name\t: A bf16-like name\n{line}\n\nprocessor\t: 1\n{line}\n", "utf-8")
    assert computes_bfloat16(told) is native


def test_where_nothing_is_told_vllm_s_usual_type_stays(tmp_path: Path) -> None:
    assert computes_bfloat16(tmp_path / "cpuinfo")
