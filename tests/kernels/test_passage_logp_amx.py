"""The AMX engine of passage_logp on emulated tiles: most machines have none to run it on."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jsarag.backends import native

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "amx"
COMPILER = shutil.which("g++")
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-DJSARAG_X86=1", "-DJSARAG_WITH_CUDA=0"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the emulation with"),
    pytest.mark.skipif(
        "avx512bf16" not in native.cpu_features(), reason="the emulation needs AVX-512 with bf16"
    ),
]


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


def test_emulated_tiles_agree_with_avx512(tmp_path):
    isas = isa_flags()
    cpu = ROOT / "csrc" / "cpu"
    units = [(HERE / "compare_passage_logp.cpp", []), (cpu / "detail" / "thread_pool.cpp", [])]
    for source in sorted(cpu.glob("passage_logp*.cpp")):
        isa = source.stem.rpartition("_")[2]
        extra = isas.get(isa, [])
        if isa == "amx":
            extra = [*extra, "-include", str(HERE / "emulated_tiles.h")]
        units.append((source, extra))
    objects = [tmp_path / f"{number}.o" for number in range(len(units))]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(compile_unit, source, output, extra)
            for (source, extra), output in zip(units, objects, strict=True)
        ]
        for job in jobs:
            job.result()
    program = tmp_path / "compare"
    subprocess.run([str(COMPILER), *map(str, objects), "-lpthread", "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
