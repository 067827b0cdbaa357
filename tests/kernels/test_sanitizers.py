"""The kernels' quick tests on modules built with sanitizers; ``scripts/sanitize all`` runs all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "sanitize"
MISSING = 77


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["address", "thread"])
def test_sanitizers_have_nothing_to_report(kind):
    done = subprocess.run(
        [SCRIPT, kind, "--quick"], capture_output=True, text=True, timeout=3000, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode == MISSING:
        pytest.skip(output.strip().splitlines()[-1])
    assert done.returncode == 0, output[-6000:]
    assert f"{kind}: a deliberate fault is reported" in output
