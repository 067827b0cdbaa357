"""The AMX kernels of scan on emulated tiles: most machines have none to run them on."""

from __future__ import annotations

from pathlib import Path

import pytest

CPU = Path(__file__).parents[2] / "csrc" / "cpu"
DETAILS = ("thread_pool", "scan_kernels", "scan_certified", "scoring")


@pytest.mark.slow
def test_emulated_tiles_agree_with_avx512(run_with_emulated_tiles):
    kernels = [*sorted(CPU.glob("scan*.cpp")), CPU / "log_partition.cpp"]
    kernels += [CPU / "detail" / f"{name}.cpp" for name in DETAILS]
    assert run_with_emulated_tiles("compare_scan.cpp", kernels) == ""
