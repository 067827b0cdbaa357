"""Tables and pictures come from rows; blocks are replaced whole, and staleness is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.errors import DataError
from jsarag_bench.kernel_tables import full_tables, milliseconds, short_table
from jsarag_bench.markdown import replace_blocks, table
from jsarag_bench.pictures import draw_pictures
from jsarag_bench.render import Results, main, rendered, stale_files
from jsarag_bench.study_tables import study_tables

ROOT = Path(__file__).resolve().parents[3]
PAGE = """# Title
before
<!-- kernels:begin -->
old
<!-- kernels:end -->
between
<!-- kernels-all:begin -->
<!-- kernels-all:end -->
<!-- study:toy:begin -->
<!-- study:toy:end -->
<!-- other:begin -->
not ours
<!-- other:end -->
after
"""


def _write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = folder / "some-machine" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_round_trip(tmp_path: Path, make_record: Callable[..., Any]) -> None:
    rows = [
        make_record("scan-f32-b64", 50.0, peers={"torch f32": (150.0, "float32")}),
        make_record(
            "scan-f32-b64",
            40.0,
            peers={"torch f32": (160.0, "float32"), "faiss flat f32": (700.0, "float32")},
            skipped={"usearch exact f16": "usearch is not installed"},
        ),
    ]
    _write(tmp_path / "results", "kernels.jsonl", rows)
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    results = Results(tmp_path / "results")
    assert stale_files([page], results) == [page]

    arguments = ["--results", str(tmp_path / "results")]
    main(["--write", str(page), *arguments])
    text = page.read_text(encoding="utf-8")
    assert text == rendered(page, results)
    # The newest row only, its best rival, and nothing outside the blocks touched.
    assert (
        "| `scan` N=400,000, D=384, B=64, k=10 | f32 | 40.0 | 160 (torch f32) | 4.00x | 50% |"
        in text
    )
    assert "old" not in text
    assert "50.0" not in text
    assert "at least 2x faster than best float32: 4.00, met" in text
    assert "usearch exact f16: usearch is not installed (scan-f32-b64)" in text
    assert "read 10 GB/s" in text
    assert "0123456789-dirty" in text
    for kept in ("before", "between", "after", "not ours", "<!-- kernels:begin -->"):
        assert kept in text

    with pytest.raises(SystemExit) as current:
        main(["--check", str(page), *arguments])
    assert current.value.code == 0
    page.write_text(text.replace("160 (torch f32)", "161 (torch f32)"), encoding="utf-8")
    with pytest.raises(SystemExit) as stale:
        main(["--check", str(page), *arguments])
    assert stale.value.code == 1


def test_missed_and_unmeasurable_targets_are_shown(make_record: Callable[..., Any]) -> None:
    missed = make_record("scan-f32-b64", 100.0, peers={"torch f32": (150.0, "float32")})
    lonely = make_record("scan-f32-b1024", 100.0)
    text = full_tables([missed, lonely])
    assert "1.50, **missed**" in text
    assert "not measurable here" in text


def test_machines_stand_apart(make_record: Callable[..., Any]) -> None:
    rows = [
        make_record("mis_chain-64x64", 0.05, machine="a"),
        make_record("mis_chain-64x64", 0.01, machine="b"),
    ]
    assert "### a" in full_tables(rows)
    assert "### b" in full_tables(rows)
    assert short_table(rows).count("0.0") >= 2


def test_no_rows_say_how_to_get_some(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for name in ("kernels", "kernels-all", "study:toy"):
        content = results.block(name)
        assert content is not None
        assert content.startswith("No rows yet")
    assert results.block("other") is None


def test_half_a_marker_is_refused() -> None:
    def render(name: str) -> str | None:
        return "new" if name == "kernels" else None

    with pytest.raises(DataError, match="found only one of them"):
        replace_blocks("<!-- kernels:begin -->\nrows\n", render, "page.md")
    assert replace_blocks("<!-- other:begin -->\n", render, "page.md") == "<!-- other:begin -->\n"


def test_cells_are_escaped_and_numbers_short() -> None:
    assert table(("a", "b"), [("x|y", "1")], right=(1,)) == (
        "| a | b |\n| :-- | --: |\n| x\\|y | 1 |"
    )
    assert [milliseconds(value) for value in (1234.5, 12.34, 1.234, 0.0123)] == [
        "1,234", "12.3", "1.23", "0.012",
    ]  # fmt: skip


def _run_row(arm: str, seed: int, r1: float, steps: int = 100) -> dict[str, Any]:
    def scores(value: float) -> dict[str, Any]:
        prior = {"R@1": value, "R@10": value + 0.2, "MRR@10": value + 0.1}
        return {"retrieval": {"prior": prior, "posterior": None}, "generation": {"F1": value / 2}}

    return {
        "date": "2026-01-02T03:04:05+00:00",
        "kind": "run",
        "study": "toy",
        "dataset": "toys",
        "arm": arm,
        "seed": seed,
        "before": scores(0.1),
        "after": scores(r1),
        "steps": steps,
        "seconds": 60.0,
        "command": "jsarag train --dataset toys",
        "environment": {
            "cpu": "Some processor",
            "usable_cores": 2,
            "cuda_device": None,
            "commit": "0123456789abcdef",
        },
    }


def test_studies_are_means_over_seeds_of_the_newest_rows() -> None:
    rows: list[dict[str, Any]] = [
        _run_row("jsa", 1, 0.9),
        _run_row("jsa", 1, 0.3),
        _run_row("jsa", 2, 0.5),
        _run_row("rag", 1, 0.2, steps=1200),
        {
            "kind": "comparison",
            "study": "toy",
            "dataset": "toys",
            "arm": "jsa",
            "against": "rag",
            "seeds": [1, 2],
            "differences": {
                "prior R@1": {"value": 0.2, "low": 0.1, "high": 0.3, "p_value": 0.001},
                "generation F1": {"value": 0.01, "low": -0.01, "high": 0.03, "p_value": 0.4},
            },
        },
        {**_run_row("jsa", 1, 0.99), "study": "another"},
    ]
    text = study_tables("toy", rows)
    assert "| jsa | - | 1, 2 | 40.0 | 60.0 | 50.0 | - | 20.0 | 100 | 60 |" in text
    assert "| rag | - | 1 | 20.0 | 40.0 | 30.0 | - | 10.0 | 1,200 | 60 |" in text
    assert "| frozen | before training | 1, 2 | 10.0 |" in text
    assert "| jsa | rag | **+20.0 [+10.0, +30.0]** | +1.0 [-1.0, +3.0] |" in text
    assert "99.0" not in text


def test_arms_of_a_shipped_study_come_with_their_reasons() -> None:
    rows = [{**_run_row(arm, 1, 0.3), "study": "sktod"} for arm in ("rag", "jsa")]
    lines = study_tables("sktod", rows).splitlines()
    arms = [line.split(" | ")[0] for line in lines if line.startswith(("| jsa", "| rag"))]
    assert arms == ["| jsa", "| rag"]
    assert any(line.startswith("| jsa | the recipe |") for line in lines)


def test_pictures(tmp_path: Path, make_record: Callable[..., Any]) -> None:
    pytest.importorskip("matplotlib")
    names = [f"scan-{dtype}-b{size}" for dtype in ("f32", "bf16") for size in (1, 8, 64)]
    rows = [
        make_record(name, float(place + 1), peers={"torch f32": (20.0, "float32")})
        for place, name in enumerate(names)
    ]
    (path,) = draw_pictures(rows, tmp_path)
    assert path.name == "scan-some-machine.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
    assert draw_pictures(rows[:1], tmp_path / "none") == []


def test_the_repositorys_pages_are_current() -> None:
    """Published tables are what the rows on file say."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
    assert pages
    assert stale_files(pages, Results()) == []
