"""The one door to the compiled module: the only package that turns tensors into addresses.

One file per op; ``arguments`` holds what they hand over alike, ``compiled`` what the module offers.
Callers (``jsarag.ops``) have checked every tensor; here it is made contiguous where a kernel needs
it, kept alive for the call, and handed over as an integer. On a machine without the compiled module
everything runs on the reference; :data:`MISSING` says why it is not there.
"""

from jsarag.backends.native.compiled import (
    CPU_OPS,
    CUDA_OPS,
    MISSING,
    cpu_features,
    cuda_architectures,
    cuda_device,
    native_ops,
    tile,
)

__all__ = [
    "CPU_OPS",
    "CUDA_OPS",
    "MISSING",
    "cpu_features",
    "cuda_architectures",
    "cuda_device",
    "native_ops",
    "tile",
]
