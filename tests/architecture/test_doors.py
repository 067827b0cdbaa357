"""One door for each danger: the rules of docs/design.md that a reader of the source could break."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [ROOT / "jsarag", ROOT / "cli" / "jsarag_cli"]
OPS = ("scan", "draw", "log_partition", "mis_chain", "passage_logp")
# Their bindings read the inputs of a scan, and stand beside its own.
BOUND_WITH_SCAN = ("draw", "log_partition")


def python_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in package.rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name as written, call) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def offenders(pattern: str, allowed: set[str]) -> list[str]:
    """Files that call something whose dotted name matches, and are not allowed to."""
    found = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        if name in allowed:
            continue
        found += [
            f"{name}:{call.lineno}: {dotted}"
            for dotted, call in calls(path)
            if re.search(pattern, dotted)
        ]
    return found


def test_source_is_found() -> None:
    assert len(python_files()) > 50


def test_only_randomness_makes_random_numbers() -> None:
    pattern = (
        r"manual_seed$|^torch\.(rand|randn|randint|randperm|multinomial|bernoulli)$"
        r"|^(np|numpy)\.random\.|^random\.(random|choice|shuffle|sample|randint|seed)$"
    )
    assert offenders(pattern, {"jsarag/randomness.py"}) == []


def test_only_hub_and_lora_load_pretrained_files() -> None:
    allowed = {"jsarag/models/hub.py", "jsarag/models/lora.py"}
    assert offenders(r"\.from_pretrained$", allowed) == []


def test_nothing_is_pickled() -> None:
    assert offenders(r"^torch\.(save|load)$|pickle|^np\.(save|load)z?$|joblib", set()) == []


def test_only_the_command_line_prints() -> None:
    found = [line for line in offenders(r"^print$", set()) if line.startswith("jsarag/")]
    assert found == []


def test_only_io_and_the_index_write_files() -> None:
    found = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("jsarag/io/", "jsarag/index/")):
            continue
        for dotted, call in calls(path):
            modes = [
                argument.value
                for argument in (*call.args, *(keyword.value for keyword in call.keywords))
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            ]
            opens = dotted.endswith("open") and any(
                re.fullmatch(r"[rwaxbt+]{1,3}", mode) and set(mode) & set("wax+") for mode in modes
            )
            if opens or re.search(r"\.write_(text|bytes)$", dotted):
                found.append(f"{name}:{call.lineno}: {dotted}")
    # The download's part file grows as bytes arrive; it is renamed when its digest is known.
    allowed = ("jsarag/data/fetch.py", "jsarag/models/hub.py")
    assert [line for line in found if not line.startswith(allowed)] == []


def test_only_native_hands_out_addresses() -> None:
    # The others look at one: whether it is aligned, whether it is the same as before.
    allowed = {"jsarag/ops/checks.py", "jsarag/ops/row_errors.py", "jsarag/io/tensors.py"}
    found = offenders(r"\.data_ptr$", allowed)
    assert [line for line in found if not line.startswith("jsarag/backends/native/")] == []


def test_nothing_swallows_every_exception() -> None:
    found = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                kinds = "BaseException" if node.type is None else ast.unparse(node.type)
                if re.search(r"\b(Base)?Exception\b", kinds):
                    found.append(f"{name}:{node.lineno}")
    assert [line for line in found if not line.startswith("cli/jsarag_cli/main.py")] == []


def test_native_code_knows_neither_torch_nor_python() -> None:
    found = []
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"} or "bindings" in path.parts:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.match(r"\s*#\s*include\s*[<\"](torch|ATen|c10|pybind11|Python|numpy)", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_complete(op: str) -> None:
    """One name everywhere: header, kernel, binding, caller, public function, reference, tests."""
    expected = [
        f"csrc/include/jsarag/{op}.h",
        f"csrc/cpu/{op}.cpp",
        f"csrc/bindings/{'scan' if op in BOUND_WITH_SCAN else op}.cpp",
        f"jsarag/backends/native/{op}.py",
        f"jsarag/ops/{op}.py",
        f"jsarag/ops/reference/{op}.py",
        f"tests/kernels/test_{op}.py",
    ]
    assert [name for name in expected if not (ROOT / name).is_file()] == []


def test_every_objective_is_one_file() -> None:
    from jsarag.em.objectives import objective_names

    folder = ROOT / "jsarag" / "em" / "objectives"
    files = {path.stem.replace("_", "-") for path in folder.glob("*.py")}
    assert set(objective_names()) <= files
    assert {"jsa", "rag"} <= set(objective_names())


def test_the_main_path_fits_one_screen() -> None:
    """The training loop is read, not scrolled: at most 45 lines of function."""
    tree = ast.parse((ROOT / "jsarag" / "train" / "loop.py").read_text(encoding="utf-8"))
    (loop,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno <= 45


def test_assemble_stays_small() -> None:
    lines = (ROOT / "jsarag" / "assemble.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250


def test_every_promise_of_security_names_tests_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    files = set(re.findall(r"\]\((tests/[\w/]+\.py)\)", text))
    assert len(files) >= 10
    sources = {name: (ROOT / name).read_text(encoding="utf-8") for name in files}
    for name in re.findall(r"`(test_\w+|Test\w+)`", text):
        wanted = f"class {name}:" if name.startswith("Test") else f"def {name}("
        assert any(wanted in source for source in sources.values()), name
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_version_is_written_once() -> None:
    from jsarag import __version__

    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert __version__ not in pyproject
    assert 'dynamic = ["version"]' in pyproject


def test_importing_the_package_is_cheap() -> None:
    import subprocess
    import sys

    code = "import sys, jsarag; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd="/").returncode == 0
