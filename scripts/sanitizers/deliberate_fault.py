"""Commits one fault through the compiled module: proves that the sanitizer would have seen ours.

``deliberate_fault.py address`` reads behind an array, ``thread`` writes one array from two threads.
``scripts/sanitize`` expects the sanitizer's report and a failing exit status.
"""

from __future__ import annotations

import sys
import threading

import torch

from jsarag import _native

CHAINS, STEPS = 400, 200


def run_chains(weights: torch.Tensor, visits: torch.Tensor) -> None:
    """``mis_chain`` into ``visits``, which other threads may be writing, too."""
    uniforms = torch.rand(CHAINS, STEPS)
    state = torch.empty(CHAINS, STEPS, dtype=torch.int32)
    accepted = torch.empty(CHAINS, STEPS, dtype=torch.bool)
    recycled = torch.empty(CHAINS, STEPS + 1)
    outputs = (tensor.data_ptr() for tensor in (state, accepted, visits, recycled))
    _native.mis_chain_cpu(
        CHAINS, STEPS, weights.data_ptr(), 0, uniforms.data_ptr(), False, *outputs, 1
    )


def main(kind: str) -> None:
    """Commit the fault."""
    print("module:", _native.__file__, flush=True)
    weights, visits = torch.randn(CHAINS, STEPS), torch.empty(CHAINS, STEPS + 1)
    if kind == "address":
        run_chains(torch.randn(CHAINS, STEPS - 1), visits)
        return
    threads = [threading.Thread(target=run_chains, args=(weights, visits)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
