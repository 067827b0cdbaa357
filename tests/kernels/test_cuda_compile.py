"""``scripts/cuda_compile``: what it reads from the compiler's report; all CUDA kernels by it."""

from __future__ import annotations

import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "cuda_compile"

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5cleanv' for 'sm_90a'
ptxas info    : Function properties for _Z5cleanv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compile time = 91.020 ms
ptxas info    : Compiling entry function '_Z7spilledv' for 'sm_90a'
ptxas info    : Function properties for _Z7spilledv
    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
ptxas info    : Compiling entry function '_Z6callerv' for 'sm_90a'
ptxas info    : Function properties for _Z6callerv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for __internal_trig_reduction_slowpathd
    40 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("cuda_compile", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_spills_and_stacks_are_found_in_the_report(script):
    kernels = script.read_report(REPORT)
    assert [tuple(kernel) for kernel in kernels] == [
        ("_Z5cleanv", 168, 0, 0),
        ("_Z7spilledv", 255, 8, 16),
        ("_Z6callerv", 32, 40, 0),
    ]
    assert [kernel.clean for kernel in kernels] == [True, False, False]


# 64 numbers alive at once, and 32 registers for each thread.
SPILLS = """
__global__ void __launch_bounds__(1024, 2) spills(float* out) {
  float numbers[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) numbers[i] = out[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) out[i * 1024 + threadIdx.x] = numbers[63 - i] * numbers[i / 2];
}
"""


def test_spills_and_warnings_are_seen(script, tmp_path, monkeypatch):
    nvcc = script.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    source = tmp_path / "fault.cu"
    source.write_text(SPILLS)
    (kernel,) = script.read_report(script.compile_unit(nvcc, None, source, "90a"))
    assert kernel.spilled >= 64
    assert not kernel.clean
    source.write_text("__global__ void unused() { int never; }")
    with pytest.raises(RuntimeError, match="never"):
        script.compile_unit(nvcc, None, source, "90a")


def test_an_unknown_architecture_is_refused():
    done = subprocess.run([SCRIPT, "hopper"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected architectures such as 90a, found hopper" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90a", "90"])
def test_every_kernel_compiles_without_warnings_spills_or_local_memory(script, architecture):
    if script.find_nvcc() is None:
        pytest.skip("no nvcc")
    if script.find_cutlass() is None:
        pytest.skip("no CUTLASS headers: pip install --no-deps nvidia-cutlass")
    done = subprocess.run([SCRIPT, architecture], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
