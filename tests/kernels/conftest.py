"""Builds programs whose AMX tile instructions run in plain C++: most machines have no tiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jsarag.backends import native

ROOT = Path(__file__).parents[2]
AMX = Path(__file__).parent / "amx"
COMPILER = shutil.which("g++")
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
