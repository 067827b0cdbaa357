"""From a name or a folder to passages and rows."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from jsarag.data.convert import convert
from jsarag.data.registry import load_dataset
from jsarag.errors import DataError


def test_the_demo() -> None:
    data = load_dataset("demo")
    assert data.name == "demo"
    assert set(data.splits) == {"train", "dev"}
    assert set(load_dataset("demo", splits=("dev",)).splits) == {"dev"}
    with pytest.raises(DataError, match="demo: expected a split among train, dev, got 'test'"):
        load_dataset("demo", splits=("test",))


def test_a_folder(folder: Path) -> None:
    data = load_dataset(str(folder))
    assert data.name == "set"
    assert len(data.kb) == 3
    assert [example.id for example in data.splits["train"]] == ["t1", "t2", "t3"]
    assert [example.id for example in data.splits["dev"]] == ["d1", "d2"]
    assert data.notes == ()


def test_a_folder_below_the_data_dir(folder: Path, tmp_path: Path) -> None:
    for where in (tmp_path, folder):
        assert load_dataset("set", data_dir=where).digest == load_dataset(str(folder)).digest
    # The name may be any: what lies in --data-dir is meant.
    assert load_dataset("sktod", data_dir=folder).name == "sktod"


def test_packed_files_are_found(folder: Path) -> None:
    plain = load_dataset(str(folder)).digest
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_dataset(str(folder)).digest == plain


def test_the_digest_covers_passages_and_rows(folder: Path, jsonl: Any) -> None:
    first = load_dataset(str(folder)).digest
    assert load_dataset(str(folder)).digest == first
    assert load_dataset(str(folder), splits=("train",)).digest != first
    text = (folder / "dev.jsonl").read_text()
    (folder / "dev.jsonl").write_text(text.replace("for hours", "for days"))
    assert load_dataset(str(folder)).digest != first


def test_notes_say_what_was_passed_over(folder: Path, jsonl: Any) -> None:
    jsonl("set/dev.jsonl", [{"id": "1", "question": "q", "answers": ["a"], "topic": "x"}])
    (folder / "train.jsonl").write_text("")
    assert load_dataset(str(folder)).notes == (
        "train.jsonl: holds no rows",
        "dev.jsonl: ignored keys topic (1)",
    )


def test_unknown_gold_is_found_while_loading(folder: Path, jsonl: Any) -> None:
    row = {"id": "1", "question": "q", "answers": ["a"], "gold_passages": ["nope"]}
    jsonl("set/dev.jsonl", [row])
    with pytest.raises(DataError, match=r"dev\.jsonl:1: field 'gold_passages\[0\]'.*kb\.jsonl"):
        load_dataset(str(folder))


def test_a_missing_split_is_named_before_reading(folder: Path) -> None:
    (folder / "train.jsonl").write_text("broken")
    with pytest.raises(DataError, match=r"test\.jsonl: expected kb\.jsonl and one \.jsonl"):
        load_dataset(str(folder), splits=("train", "test"))


def test_a_folder_without_passages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"kb\.jsonl: expected .* found an empty folder; add"):
        load_dataset(str(tmp_path))
    (tmp_path / "notes.log").write_text("x")
    with pytest.raises(DataError, match=r"found notes\.log; add kb\.jsonl"):
        load_dataset(str(tmp_path))


def test_a_folder_of_documents_is_told_of_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("x")
    (tmp_path / "faq.csv").write_text("Frage,Antwort\n")
    with pytest.raises(DataError, match=r"found docs, faq\.csv; .*`jsarag data build \S+ --quest"):
        load_dataset(str(tmp_path))


def test_tables_stand_beside_json_lines(folder: Path, jsonl: Any) -> None:
    (folder / "train.jsonl").unlink()
    (folder / "train.csv").write_text('question,answers,gold_passages\nhow?,"[""so""]",a\n')
    loaded = load_dataset(str(folder))
    assert [row.gold_passages for row in loaded.splits["train"]] == [("a",)]
    assert len(loaded.splits["dev"]) == 2
    assert any("without an id" in note for note in loaded.notes)
    (folder / "kb.jsonl").unlink()
    (folder / "kb.csv").write_text("id,text\na,A.\nb,B.\nc,C.\n")
    assert len(load_dataset(str(folder)).kb) == 3


def test_no_dev_says_how_to_cut_one(folder: Path) -> None:
    (folder / "dev.jsonl").unlink()
    with pytest.raises(DataError, match=r"dev\.jsonl: .*data convert \S+ FOLDER --dev-fraction"):
        load_dataset(str(folder))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dmeo", "did you mean 'demo'"),
        ("squd", "did you mean 'squad'"),
        ("zzz", r"beir, csv, doqa, .*there is no such folder here"),
        ("wow", r"'wow' is published by others.*--data-dir FOLDER.*train\.json"),
        ("./nowhere", "got './nowhere'"),
    ],
)
def test_names_that_lead_nowhere(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=words):
        load_dataset(name)


def test_a_data_dir_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check --data-dir"):
        load_dataset("mine", data_dir=tmp_path / "none")
    with pytest.raises(DataError, match=r"expected a folder, found none.*train\.json"):
        load_dataset("wow", data_dir=tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="found a file"):
        load_dataset(str(tmp_path / "file"))


def test_an_official_folder_is_recognised(tmp_path: Path, jsonl: Any) -> None:
    jsonl("b/corpus.jsonl", [{"_id": "p", "title": "T", "text": "x"}])
    jsonl("b/queries.jsonl", [{"_id": "q", "text": "why", "answers": ["so"]}])
    jsonl("b/qrels/dev.tsv", ["query-id\tcorpus-id\tscore", "q\tp\t1"])
    data = load_dataset(str(tmp_path / "b"), splits=("dev",))
    assert data.name == "b"
    assert data.splits["dev"][0].gold_passages == ("p",)
    assert "read as BEIR" in data.notes[0]


def test_converting_gives_the_same_data_back(folder: Path, tmp_path: Path) -> None:
    for source in (str(folder), "demo"):
        data = load_dataset(source)
        target = tmp_path / "out" / source.replace("/", "_")
        written = convert(data, target)
        assert written["kb.jsonl"] == len(data.kb)
        again = load_dataset(str(target))
        assert again.digest == data.digest
        assert again.splits == data.splits
        assert [p.meta for p in again.kb] == [p.meta for p in data.kb]
        assert convert(data, target) == written  # an earlier conversion is replaced


def test_a_conversion_destroys_nothing(folder: Path, tmp_path: Path) -> None:
    data = load_dataset("demo", splits=("dev",))
    with pytest.raises(DataError, match="choose another target"):
        convert(data, folder)
    assert (folder / "train.jsonl").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="found a file"):
        convert(data, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


def test_rows_without_an_answer_are_not_written(tmp_path: Path, jsonl: Any) -> None:
    jsonl("b/corpus.jsonl", [{"_id": "p", "title": "T", "text": "x"}])
    jsonl("b/queries.jsonl", [{"_id": "q", "text": "why"}])
    jsonl("b/qrels/dev.tsv", ["q\tp\t1"])
    data = load_dataset(str(tmp_path / "b"), splits=("dev",))
    with pytest.raises(DataError, match="'q' of 'dev' has no answer"):
        convert(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
