"""The numerical phases of a training step; each op exists as reference, CPU and CUDA code.

Public: ``scan``, ``draw``, ``log_partition``, ``mis_chain``, ``passage_logp``, ``row_errors``,
``quantise_rows`` and ``TILE``.
"""

from jsarag.ops.draw import draw
from jsarag.ops.log_partition import log_partition
from jsarag.ops.mis_chain import mis_chain
from jsarag.ops.passage_logp import passage_logp
from jsarag.ops.results import (
    DrawResult,
    MisChainResult,
    PassageLogpResult,
    RowErrors,
    ScanResult,
)
from jsarag.ops.rounding import QuantisedRows, quantise_rows
from jsarag.ops.row_errors import row_errors
from jsarag.ops.scan import MAX_K, scan
from jsarag.ops.tile import TILE

__all__ = [
    "MAX_K",
    "TILE",
    "DrawResult",
    "MisChainResult",
    "PassageLogpResult",
    "QuantisedRows",
    "RowErrors",
    "ScanResult",
    "draw",
    "log_partition",
    "mis_chain",
    "passage_logp",
    "quantise_rows",
    "row_errors",
    "scan",
]
