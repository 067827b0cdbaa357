"""One module per op: builds a case's inputs, verifies the op, and says what is timed.

Each has ``make_inputs(case, device)``, deterministic, and ``build(case, inputs) -> Workload``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from jsarag.errors import ConfigError

if TYPE_CHECKING:
    from jsarag_bench.cases import Case
    from jsarag_bench.kernels.base import Workload

OPS = ("scan", "draw", "log_partition", "mis_chain", "passage_logp")


class Kernel(Protocol):
    """What a module of this package offers."""

    def make_inputs(self, case: Case, device: str) -> Any: ...

    def build(self, case: Case, inputs: Any) -> Workload: ...


def load_kernel(op: str) -> Kernel:
    """The module of an op.

    Raises:
        ConfigError: there is none.
    """
    if op not in OPS:
        raise ConfigError(f"cases.yaml: unknown op '{op}'; expected one of {', '.join(OPS)}")
    kernel: Kernel = import_module(f"jsarag_bench.kernels.{op}")
    return kernel
