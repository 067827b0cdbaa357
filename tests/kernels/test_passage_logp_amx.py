"""The AMX engine of passage_logp on emulated tiles: most machines have none to run it on."""

from __future__ import annotations

from pathlib import Path

import pytest

CPU = Path(__file__).parents[2] / "csrc" / "cpu"


@pytest.mark.slow
def test_emulated_tiles_agree_with_avx512(run_with_emulated_tiles):
    kernels = [*sorted(CPU.glob("passage_logp*.cpp")), CPU / "detail" / "thread_pool.cpp"]
    assert run_with_emulated_tiles("compare_passage_logp.cpp", kernels) == ""
