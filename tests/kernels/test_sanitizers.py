"""Kernel tests on modules built with sanitizers; ``scripts/sanitize all`` runs all of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "sanitize"
MISSING = 77


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("address", "--smoke"),
        pytest.param("address", "--quick", marks=pytest.mark.slow),
        pytest.param("thread", "--quick", marks=pytest.mark.slow),
    ],
)
def test_sanitizers_have_nothing_to_report(kind, mode):
    done = subprocess.run(
        [SCRIPT, kind, mode], capture_output=True, text=True, timeout=3000, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode == MISSING:
        pytest.skip(output.strip().splitlines()[-1])
    assert done.returncode == 0, output[-6000:]
    assert f"{kind}: a deliberate fault is reported" in output
    assert " passed" in output
