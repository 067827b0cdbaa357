"""Whatever a file holds, the reader answers with rows or with a DataError, never anything else."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jsarag.data.examples import read_examples
from jsarag.data.formats import all_formats
from jsarag.data.knowledge_base import KnowledgeBase, read_passages
from jsarag.data.rows import EXAMPLE_FIELDS, PASSAGE_FIELDS
from jsarag.errors import DataError
from jsarag.types import Example, Passage

KB = KnowledgeBase([Passage("a", "x")])

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars | st.just("a"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["speaker", "text", "a", "data"]), inner, max_size=3)
    ),
    max_leaves=8,
)
rows = st.dictionaries(st.sampled_from([*EXAMPLE_FIELDS, *PASSAGE_FIELDS, "x"]), values, max_size=6)


def reread(example: Example) -> None:
    assert example.answers
    assert all(answer.strip() for answer in example.answers)
    assert (example.question is None) == bool(example.history)
    assert example.dialogue_id
    assert not set(example.gold_passages) - {"a"}


@settings(max_examples=150, deadline=None)
@given(st.lists(rows | values, max_size=4))
def test_rows_of_any_json(content: list[Any]) -> None:
    problems: list[DataError] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in content), encoding="utf-8")
        for example in read_examples(path, kb=KB, on_problem=problems.append):
            reread(example)
        for passage in read_passages(path, on_problem=problems.append):
            assert passage.text.strip()
            assert passage.id
    assert all(problem.line is not None and problem.path == path for problem in problems)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_files_of_any_bytes(content: bytes) -> None:
    problems: list[DataError] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("f.jsonl", "f.jsonl.gz"):
            path = Path(folder) / name
            path.write_bytes(content)
            try:
                read_examples(path, kb=KB, on_problem=problems.append)
            except DataError as problem:
                problems.append(problem)
    assert all(str(problem) for problem in problems)


FILES = {
    "beir": ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"),
    "csv": ("kb.csv", "train.csv"),
    "doqa": ("doqa-cooking-train-v2.1.json",),
    "dpr": ("train.json",),
    "kilt": ("kilt_knowledgesource.json", "t-train-kilt.jsonl"),
    "msmarco": ("train_v2.1.json",),
    "nq": ("psgs_w100.tsv", "NQ-open.train.jsonl"),
    "orquac": ("train.txt",),
    "squad": ("train-v1.1.json",),
    "triviaqa": ("qa/web-train.json",),
    "wow": ("train.json",),
}


def test_every_format_is_tried() -> None:
    assert set(FILES) == set(all_formats())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FILES)), values.map(json.dumps) | st.text(max_size=60))
def test_official_files_of_anything(name: str, content: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES[name]:
            path = Path(folder) / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8", errors="surrogatepass", newline="")
        with contextlib.suppress(DataError):
            all_formats()[name].read(Path(folder), ("train",), {})


def test_the_documentation_names_every_format() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text()
    for name in all_formats():
        assert f"| `{name}` |" in text
