"""``scripts/gpu_check``: it survives whatever its parts do, and says what happened."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "gpu_check"


@pytest.fixture(scope="module")
def script():
    loader = SourceFileLoader("gpu_check", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    module = module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look themselves up
    loader.exec_module(module)
    return module


@pytest.fixture
def check(script, tmp_path):
    return script.Check(out=tmp_path / "out", device="cpu", seed=5)


def part(script, name, code, limit_s=20.0, **options):
    def commands(check):
        return [[check.python, "-c", code]]

    return script.Part(name, "about it", limit_s, commands, **options)


def test_a_part_that_fails_takes_no_other_with_it(script, check, capsys):
    def raises(check):
        raise OSError("no such thing")

    parts = [
        part(script, "fails", "print('words'); raise SystemExit(3)"),
        script.Part("breaks", "about it", 20.0, raises),
        script.Part("absent", "about it", 20.0, lambda check: [["no-such-program-here"]]),
        script.Part("refused", "about it", 20.0, raises, lambda check: "not today"),
        part(script, "fine", "print('{\"answer\": 42}')", details=script.last_json),
    ]
    result = script.run_all(check, parts, budget_s=100.0)
    assert [one["status"] for one in result["parts"]] == [
        "failed",
        "failed",
        "failed",
        "skipped",
        "passed",
    ]
    fails, breaks, absent, refused, fine = result["parts"]
    assert (fails["exit_status"], fails["tail"]) == (3, ["words"])
    assert breaks["error"] == "OSError: no such thing"
    assert "no-such-program-here" in absent["error"]
    assert refused["reason"] == "not today"
    assert fine["details"] == {"answer": 42}
    assert result["passed"] is False
    assert json.loads((check.out / "result.json").read_text()) == result
    log = (check.out / "log.txt").read_text()
    assert "words" in log
    assert "raise SystemExit(3)" in log
    assert "words" in capsys.readouterr().out


def test_a_part_ends_at_its_limit_with_all_it_started(script, check, tmp_path):
    child, program = tmp_path / "child", tmp_path / "program.py"
    program.write_text(f"import time; time.sleep(3); open({str(child)!r}, 'w')")
    code = (
        "import subprocess, sys, time; print('began', flush=True); "
        f"subprocess.Popen([sys.executable, {str(program)!r}]); time.sleep(60)"
    )
    began = time.monotonic()
    result = script.run_all(
        check, [part(script, "slow", code, 1.5), part(script, "next", "pass")], 100.0
    )
    assert time.monotonic() - began < 15
    slow, following = result["parts"]
    assert (slow["status"], slow["tail"]) == ("out of time", ["began"])
    assert following["status"] == "passed"
    time.sleep(2.5)
    assert not child.exists()


def test_no_part_begins_without_time_or_without_what_it_needs(script, check):
    late = script.run_all(check, [part(script, "one", "pass")], budget_s=1.0)
    assert late["parts"][0]["reason"] == "no time is left"
    parts = [part(script, "first", "exit(1)", required=True), part(script, "second", "pass")]
    lost = script.run_all(check, parts, 100.0)
    assert lost["parts"][1] == {
        "name": "second",
        "status": "skipped",
        "reason": "first did not pass",
    }


def test_what_is_read_from_the_output(script):
    output = "FAILED tests/a.py::b[x-1] - assert\n1 failed, 12 passed, 3 skipped in 2.5s\n"
    found = script.pytest_details(output)
    assert found == {"failed": 1, "passed": 12, "skipped": 3, "names": ["tests/a.py::b[x-1]"]}
    bench = script.bench_details(
        "ceilings: read 4,300.0 GB/s, bfloat16 790,000 GFLOP/s\n"
        "cuda-scan: verifying against float64\n"
        "cuda-scan: 2.900 ms (cuda), target time at most 1.2x floor: MISSED\n"
        "mis_chain-64x64: 0.009 ms (cuda), 50.0x the best rival's speed\n"
    )
    assert bench["ceilings"].startswith("read 4,300")
    assert list(bench["rows"]) == ["cuda-scan", "mis_chain-64x64"]
    assert bench["missed"] == ["cuda-scan"]
    assert script.architecture_of('{"capability": "9.0"}') == "90a-real"
    assert script.architecture_of('{"capability": "8.6"}') == "86-real"
    assert script.architecture_of('{"capability": null}') == ""


def test_the_parts_of_a_gpu_run_name_the_device(script, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "one.whl").touch()
    check = script.Check(
        out=tmp_path, device="cuda", wheels=wheels, seed=9, architecture="90a-real"
    )
    commands = {one.name: [list(c) for c in one.commands(check)] for one in script.PARTS}
    assert str(wheels / "one.whl") in commands["build"][0]
    assert "cmake.define.JSARAG_CUDA=ON" in commands["build"][1]
    assert "cmake.define.JSARAG_CUDA_ARCHITECTURES=90a-real" in commands["build"][1]
    assert commands["memcheck"][0][:3] == ["compute-sanitizer", "--tool", "memcheck"]
    assert commands["racecheck"][0][2] == "racecheck"
    assert "gpu and not slow" in commands["tests"][0]
    assert "cuda" in commands["training"][0]
    assert "--full" in commands["bench"][0]
    assert check.environment()["JSARAG_REQUIRE"] == "cuda"
    assert check.environment()["JSARAG_FUZZ_OFFSET"] == "9"


def test_wrong_arguments_are_refused():
    done = subprocess.run([SCRIPT, "paint"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "found paint" in done.stderr
    done = subprocess.run([SCRIPT, "--wheels", "/none"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "found none in /none" in done.stderr


def test_the_requirements_are_one_list_of_small_wheels():
    lines = (ROOT / "scripts" / "gpu_requirements.txt").read_text().splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    assert "nvidia-cutlass>=4.2" in names
    assert not any("://" in line for line in lines)


@pytest.mark.slow
def test_every_part_passes_on_the_cpu(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cpu", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["passed"]
    assert all(one["status"] == "passed" for one in result["parts"])
    assert (tmp_path / "out" / "kernels.jsonl").exists()
