"""Each instruction set below the machine's best: correct, and as alike as its arithmetic allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from jsarag import ops
from jsarag.backends import native

LOWER = native.cpu_features()[:-1]
pytestmark = pytest.mark.skipif(bool(native.MISSING), reason=native.MISSING or "compiled")

_RUN = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
from test_instruction_sets import results
from jsarag.backends import native
torch.save(results(), sys.argv[2])
print(json.dumps(native.cpu_features()))
"""


def results() -> dict[str, list[torch.Tensor]]:
    """Every op on every dtype, on a few awkward shapes."""
    found = {}
    for batch, count, width in ((3, 1100, 70), (14, 530, 147)):
        generator = torch.Generator().manual_seed(batch)
        queries = torch.randn(batch, width, generator=generator)
        exact = torch.randn(count, width, generator=generator)
        uniforms = torch.rand(batch, 9, generator=generator, dtype=torch.float64)
        for dtype in ("float32", "bfloat16", "float16", "int8"):
            passages, scales = exact, None
            if dtype == "int8":
                passages, scales = ops.quantise_rows(exact)
            else:
                passages = exact.to(getattr(torch, dtype))
            scan = ops.scan(queries, passages, 8, 0.2, scales=scales, tile_lse=True)
            draw = ops.draw(queries, passages, 0.2, scan.tile_lse, uniforms, scales=scales)
            leaf = queries.clone().requires_grad_()
            ops.log_partition(leaf, passages, 0.2, scales=scales).sum().backward()
            certified = ops.scan(
                queries, passages, 8, 0.2, scales=scales, certify=True, exact_passages=exact
            )
            found[f"{dtype} {batch}"] = [
                scan.scores,
                scan.tile_lse,
                draw.logp,
                leaf.grad,
                certified.ids,
                certified.scores,
            ]
    return found


@pytest.mark.parametrize("isa", LOWER)
def test_a_weaker_instruction_set_gives_the_same_results(isa, tmp_path):
    path = tmp_path / "results.pt"
    run = subprocess.run(
        [sys.executable, "-c", _RUN, os.path.dirname(__file__), str(path)],
        env={**os.environ, "JSARAG_CPU_ISA": isa},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(run.stdout)[-1] == isa
    weak, best = torch.load(path, weights_only=True), results()
    for name, tensors in best.items():
        # How far queries are rounded differs; sums in f32 differ in their last bits.
        room = {"bfloat16": 2e-2, "int8": 2e-3}.get(name.split()[0], 1e-4)
        ids = tensors[4]
        assert torch.equal(weak[name][4], ids)
        for index in (0, 1, 3, 5):
            torch.testing.assert_close(
                weak[name][index], tensors[index], atol=room if index != 5 else 1e-4, rtol=room
            )
        # Fused sums of f32 are the same in vectors of any length.
        if isa != "portable" and name.startswith(("float32", "float16")):
            assert torch.equal(weak[name][0], tensors[0])
