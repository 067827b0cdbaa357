"""The wheel holds all it needs, and works from an empty folder without the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA_FILES = (
    "jsarag/config/recipes/demo.yaml",
    "jsarag/config/recipes/wow.yaml",
    "jsarag/data/demo_texts.toml",
    "jsarag/py.typed",
    "jsarag_bench/cases.yaml",
    "jsarag_cli/main.py",
)


@pytest.mark.slow
def test_a_wheel_works_where_nothing_else_is(tmp_path: Path) -> None:
    """Built without CUDA, unpacked elsewhere: kernels compiled, recipes there, search works."""
    built = tmp_path / "built"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "-C", "cmake.define.JSARAG_CUDA=OFF"),
            *("-C", f"build-dir={tmp_path / 'build'}", "-w", str(built), str(ROOT)),
        ],
        check=True,
    )
    (wheel,) = built.glob("jsarag-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert [name for name in DATA_FILES if name not in names] == []
    assert any(name.startswith("jsarag/_native.") for name in names)
    assert not any(name.startswith(("csrc/", "tests/")) for name in names)
    empty = tmp_path / "empty"
    empty.mkdir()
    code = (
        "import json, sys, torch, jsarag; from jsarag import ops;"
        "from jsarag.backends.report import backend_report;"
        "from jsarag.data.registry import load_dataset;"
        "found = ops.scan(torch.eye(3), torch.eye(3), 1, 1.0);"
        "print(json.dumps({'file': jsarag.__file__, 'ids': found.ids.tolist(),"
        " 'ops': backend_report()['ops'], 'passages': len(load_dataset('demo').kb)}))"
    )
    # The checkout is installed editable, by a finder that comes before the path: take it out.
    prelude = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.meta_path[:] = "
        "[finder for finder in sys.meta_path if 'ScikitBuild' not in type(finder).__name__];"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", prelude + code, str(tmp_path / "site")],
        cwd=empty,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(result.stdout)
    assert found["file"].startswith(str(tmp_path / "site"))
    assert found["ids"] == [[0], [1], [2]]
    assert found["passages"] >= 1000
    assert {op["backend"] for op in found["ops"].values()} == {"cpu"}
