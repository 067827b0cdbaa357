"""Kernels that this machine cannot run, emulated: programs whose AMX tile instructions run in plain
C++, and the CUDA kernels as a module in which a block's threads are fibres.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from jsarag import ops
from jsarag.backends import native
from jsarag.backends.native import arguments, compiled

ROOT = Path(__file__).parents[2]
AMX = Path(__file__).parent / "amx"
COMPILER = shutil.which("g++")
CUDA = Path(__file__).parent / "cuda"
# CUTLASS main loops cannot be emulated, tests/kernels/cuda/*_wgmma.cpp stand in for them; and there
# is no device to name.
FENCE = 0xA5
NOT_EMULATED = ("device_info", "wgmma")
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-DJSARAG_X86=1", "-DJSARAG_WITH_CUDA=0"]


def isa_flags() -> dict[str, list[str]]:
    """The flags of each instruction set, as CMakeLists.txt has them."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found: dict[str, list[str]] = {}
    for name, flags in re.findall(r"set\(JSARAG_ISA_(\w+) ([^)]*)\)", text):
        words = flags.split()
        found[name] = [
            flag
            for word in words
            for flag in (found[word[13:-1]] if word.startswith("${") else [word])
        ]
    return found


def compile_unit(source: Path, output: Path, extra: list[str]) -> None:
    csrc = ROOT / "csrc"
    command = [str(COMPILER), *FLAGS, f"-I{csrc}", f"-I{csrc / 'include'}", *extra]
    done = subprocess.run(
        [*command, "-c", str(source), "-o", str(output)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run_with_emulated_tiles(tmp_path: Path) -> Callable[[str, Sequence[Path]], str]:
    """``run(program, kernels)``: compile amx/program with the kernels' sources, run it, its output.

    Files named ``*_amx.cpp`` see emulated tiles, the others get their instruction set's flags.
    """
    if COMPILER is None:
        pytest.skip("no g++ to compile the emulation with")
    if "avx512bf16" not in native.cpu_features():
        pytest.skip("the emulation needs AVX-512 with bf16")

    def run(program: str, kernels: Sequence[Path]) -> str:
        isas = isa_flags()
        units: list[tuple[Path, list[str]]] = [(AMX / program, [])]
        for source in kernels:
            isa = source.stem.rpartition("_")[2]
            extra = isas.get(isa, [])
            if isa == "amx":
                extra = [*extra, "-include", str(AMX / "emulated_tiles.h")]
            units.append((source, extra))
        objects = [tmp_path / f"{number}.o" for number in range(len(units))]
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(compile_unit, source, output, extra)
                for (source, extra), output in zip(units, objects, strict=True)
            ]
            for job in jobs:
                job.result()
        binary = tmp_path / "program"
        link = [str(COMPILER), *map(str, objects), "-lpthread", "-o", str(binary)]
        subprocess.run(link, check=True)
        done = subprocess.run([str(binary)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def emulated_sources() -> list[Path]:
    """What the emulated module is compiled from."""
    ops = ("cuda_call", "mis_chain", "passage_logp", "scan")
    bindings = [ROOT / f"csrc/bindings/{name}.cpp" for name in ops]
    kernels = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    return [
        CUDA / "module.cpp",
        *sorted(CUDA.glob("*_wgmma.cpp")),
        *bindings,
        *(path for path in kernels if not any(word in path.stem for word in NOT_EMULATED)),
    ]


def build_emulated(folder: Path, pybind11: str) -> Path:
    """The CUDA kernels compiled over the emulation into ``folder``, unless they are there."""
    includes = [ROOT / "csrc", ROOT / "csrc/include", CUDA, pybind11]
    includes.append(sysconfig.get_paths()["include"])
    flags = ["-std=c++20", "-O1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-unknown-pragmas", "-DJSARAG_EMULATE_CUDA=1", "-DJSARAG_WITH_CUDA=1"]
    flags += ["-DJSARAG_WITH_CUTLASS=1"]
    # Another name for the library: pybind11 keeps one table of types for all modules that agree in
    # it, and jsarag._native has the same types.
    flags += ['-DPYBIND11_STDLIB="_emulated"', *(f"-I{path}" for path in includes)]
    known = hashlib.sha256(" ".join(flags).encode())
    for path in sorted([*(ROOT / "csrc").rglob("*.[hc]*"), *CUDA.iterdir()]):
        known.update(path.read_bytes())
    library = folder / known.hexdigest()[:16] / f"_emulated{sysconfig.get_config_var('EXT_SUFFIX')}"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with (library.parent / "lock").open("w") as lock:
        # Of two that need it at once, one compiles and the other waits.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile_emulated(library, flags)
    return library


def _compile_emulated(library: Path, flags: list[str]) -> None:
    def compile_one(source: Path, output: Path) -> Path:
        command = [str(COMPILER), *flags, "-x", "c++", "-c", str(source), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return output

    with tempfile.TemporaryDirectory(dir=library.parent) as work, ThreadPoolExecutor(2) as pool:
        sources = emulated_sources()
        outputs = [Path(work) / f"{source.stem}_{source.suffix[1:]}.o" for source in sources]
        objects = list(pool.map(compile_one, sources, outputs))
        linked = Path(work) / library.name
        subprocess.run(
            [str(COMPILER), "-shared", *map(str, objects), "-o", str(linked)], check=True
        )
        os.replace(linked, library)  # a run beside this one sees all of it or nothing


@pytest.fixture(scope="session")
def emulated_module():
    """The CUDA kernels as a module for CPU tensors."""
    if COMPILER is None:
        pytest.skip("no g++ to compile the emulation with")
    pybind11 = pytest.importorskip("pybind11")
    library = build_emulated(ROOT / "build" / "emulated", pybind11.get_include())
    spec = importlib.util.spec_from_file_location("_emulated", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def emulated_cuda(emulated_module, monkeypatch):
    """CPU tensors run the emulated CUDA kernels; every torch.empty is poisoned and fenced."""
    monkeypatch.setattr(compiled, "_module", emulated_module)
    monkeypatch.setattr(arguments, "on_cuda", lambda tensor: True)
    empty = torch.empty

    def poisoned(*args, **options):
        tensor = empty(*args, **options)
        if tensor.numel() and tensor.is_contiguous():
            tensor.view(torch.uint8).fill_(0xFF)
        return tensor

    monkeypatch.setattr(torch, "empty", poisoned)
    # Behind the scratch of a call lies a fence; the next call and the end of the test look at it.
    fences = []

    def look():
        for fence in fences:
            assert (fence == FENCE).all(), "a kernel wrote behind its scratch"
        fences.clear()

    class FencedCall(arguments.CudaCall):
        def __init__(self, device, scratch_bytes=0):
            look()
            super().__init__(device, scratch_bytes + 4096)
            fences.append(self.scratch[scratch_bytes:].fill_(FENCE))

    monkeypatch.setattr(arguments, "CudaCall", FencedCall)
    yield emulated_module
    look()


def moved(value, device):
    """A tensor on another device, lying there as it lay here; so are a named tuple's members.

    Anything else comes back as it is.
    """
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(member, device) for member in value))
    if not isinstance(value, torch.Tensor):
        return value
    if value.requires_grad or value.is_contiguous():
        return value.to(device)
    flat = torch.empty(0, dtype=value.dtype, device=value.device).set_(value.untyped_storage())
    return flat.to(device).as_strided(value.size(), value.stride(), value.storage_offset())


def on_cuda(op):
    """An op of ``jsarag.ops`` that runs on the GPU and takes and gives tensors of the CPU."""

    @functools.wraps(op)
    def call(*args, **options):
        there = {name: moved(value, "cuda") for name, value in options.items()}
        return moved(op(*(moved(value, "cuda") for value in args), **there), "cpu")

    return call


@pytest.fixture
def move():
    """``moved``, for the test of it."""
    return moved


@pytest.fixture
def cuda_ops(monkeypatch):
    """``jsarag.ops`` on the GPU for tensors of the CPU; what ops allocate there is poisoned."""
    if not torch.cuda.is_available():
        if os.environ.get("JSARAG_REQUIRE") == "cuda":
            pytest.fail("JSARAG_REQUIRE=cuda, and torch finds no CUDA device")
        pytest.skip("no CUDA device")
    empty = torch.empty

    def poisoned(*args, **options):
        tensor = empty(*args, **options)
        if tensor.is_cuda and tensor.numel() and tensor.is_contiguous():
            tensor.view(torch.uint8).fill_(0xFF)
        return tensor

    monkeypatch.setattr(torch, "empty", poisoned)
    for name in ("scan", "draw", "log_partition", "mis_chain", "passage_logp", "row_errors"):
        monkeypatch.setattr(ops, name, on_cuda(getattr(ops, name)))
    return ops


@pytest.fixture
def chosen_backend(request, monkeypatch):
    """Run ``jsarag.ops`` on a backend: ``chosen_backend(name)``, ``emulated`` among them.

    ``emulated-hopper`` takes the main loops of compute capability 9.0 where there are some;
    ``cuda`` runs tensors of the CPU on the GPU.
    """
    hopper = []

    def choose(name: str) -> str:
        if name == "cuda":
            request.getfixturevalue("cuda_ops")
            # What runs on the CPU all the same (the float64 reference) chooses for itself.
            monkeypatch.setenv("JSARAG_BACKEND", "auto")
            return name
        if name.startswith("emulated"):
            module = request.getfixturevalue("emulated_cuda")
            module.set_hopper(name == "emulated-hopper")
            hopper.append(module)
        monkeypatch.setenv("JSARAG_BACKEND", "cpu" if name.startswith("emulated") else name)
        return name

    yield choose
    for module in hopper:
        module.set_hopper(False)
