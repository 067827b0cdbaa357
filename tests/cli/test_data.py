"""``data``: what is known, what is wrong with a folder, and writing one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

PASSAGES = ({"id": "a", "text": "oil the tower clock"}, {"id": "b", "text": "rivers freeze"})
ROW = {"id": "q1", "question": "what needs oil?", "answers": ["clock"], "gold_passages": ["a"]}


def write_rows(path: Path, *rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_rows(folder / "kb.jsonl", *PASSAGES)
    write_rows(folder / "train.jsonl", ROW)
    write_rows(folder / "dev.jsonl", {**ROW, "id": "q2", "question": "where is oil?"})
    return folder


def test_list_names_demo_and_formats_with_their_files(cli: Cli) -> None:
    found = {entry["name"]: entry for entry in cli("data", "list", "--json").json["datasets"]}
    assert found["demo"]["recipe"] is True
    assert found["demo"]["files"] == []
    assert found["wow"]["files"]
    text = cli("data", "list").out
    assert "demo" in text
    assert "Wizard of Wikipedia" in text
    assert "doc2dial, doqa_cooking, sktod (`jsarag train --list-recipes`)" in " ".join(text.split())


def test_a_sound_folder_is_fine(cli: Cli, folder: Path) -> None:
    ended = cli("data", "check", str(folder))
    assert ended.code == 0
    assert "mine  fine" in ended.out
    report = cli("data", "check", "mine", "--json").json
    assert report["ok"] is True
    assert report["kb"]["passages"] == 2
    assert report["splits"]["dev"]["rows"] == 1


def test_passages_nearly_alike_and_leaks_are_shown(cli: Cli, folder: Path) -> None:
    text = "the tower clock needs oil every spring and a new rope every second year or so"
    alike = ({"id": "a", "text": text}, {"id": "b", "text": text.replace("rope", "bell")})
    write_rows(folder / "kb.jsonl", *alike)
    write_rows(folder / "dev.jsonl", {**ROW, "id": "q2", "question": "What needs oil"})
    shown = cli("data", "check", str(folder)).out
    assert "nearly alike (76% of their word pairs): a and b" in shown
    assert alike[1]["text"] in shown
    assert "1 passages say nearly what an earlier one says" in shown
    assert "1 rows have a context that is also in train (0 of them word for word, 1" in shown


def test_every_problem_is_shown_and_the_code_is_3(cli: Cli, folder: Path) -> None:
    bad = [{**ROW, "id": f"bad{number}", "gold_passages": ["none"]} for number in range(5)]
    write_rows(folder / "train.jsonl", ROW, *bad)
    ended = cli("data", "check", str(folder), "--max-problems", "3")
    assert ended.code == 3
    assert ended.out.count("error: ") == 3
    assert "train.jsonl:2" in ended.out
    assert "and 2 more problems" in ended.out
    record = cli("data", "check", str(folder), "--json")
    assert record.code == 3
    assert record.json["problem_count"] == 5


def test_columns_can_be_renamed(cli: Cli, folder: Path) -> None:
    renamed = {("Answer" if key == "answers" else key): value for key, value in ROW.items()}
    write_rows(folder / "train.jsonl", renamed)
    (folder / "dev.jsonl").unlink()
    assert cli("data", "check", str(folder)).code == 3
    assert cli("data", "check", str(folder), "--map", "answers=Answer").code == 0
    wrong = cli("data", "check", str(folder), "--map", "answers")
    assert wrong.code == 2
    assert "flag --map" in wrong.err


def test_convert_writes_what_can_be_read_again(cli: Cli, folder: Path, tmp_path: Path) -> None:
    ended = cli("data", "convert", str(folder), "out", "--json")
    assert ended.json["rows"] == {"kb.jsonl": 2, "train.jsonl": 1, "dev.jsonl": 1}
    before = cli("data", "check", str(folder), "--json").json
    after = cli("data", "check", "out", "--json").json
    assert after["kb"] == before["kb"]
    assert after["splits"] == before["splits"]


def test_convert_writes_the_splits_asked_for(cli: Cli, folder: Path) -> None:
    ended = cli("data", "convert", str(folder), "out", "--split", "train", "--json")
    assert ended.json["rows"] == {"kb.jsonl": 2, "train.jsonl": 1}
    assert cli("data", "convert", str(folder), "other", "--split", "test").code == 3


def test_convert_cuts_a_dev_split_where_there_is_none(cli: Cli, folder: Path) -> None:
    rows = [{**ROW, "id": f"q{n}", "question": f"what {n}?", "answers": [f"{n}"]} for n in range(5)]
    for row in rows:
        del row["gold_passages"]
    write_rows(folder / "train.jsonl", *rows)
    wrong = cli("data", "convert", str(folder), "out", "--dev-fraction", "0.4")
    assert wrong.code == 3
    assert "has a dev split" in wrong.err
    (folder / "dev.jsonl").unlink()
    ended = cli("data", "convert", str(folder), "out", "--dev-fraction", "0.4", "--json")
    assert ended.json["rows"] == {"kb.jsonl": 2, "train.jsonl": 3, "dev.jsonl": 2}


def test_convert_reads_a_format_by_name(cli: Cli, tmp_path: Path) -> None:
    squad = {
        "data": [
            {
                "title": "Clocks",
                "paragraphs": [
                    {
                        "context": "The tower clock needs oil.",
                        "qas": [
                            {
                                "id": "1",
                                "question": "What does it need?",
                                "answers": [{"text": "oil", "answer_start": 22}],
                            }
                        ],
                    }
                ],
            }
        ]
    }
    source = tmp_path / "squad"
    source.mkdir()
    for name in ("train", "dev"):
        (source / f"{name}-v1.1.json").write_text(json.dumps(squad), encoding="utf-8")
    ended = cli("data", "convert", str(source), "out", "--format", "squad", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["rows"]["train.jsonl"] == 1
    wrong = cli("data", "convert", str(source), "out2", "--format", "sqad")
    assert wrong.code == 3
    assert "did you mean 'squad'" in wrong.err


def test_convert_says_why_nothing_can_be_read(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = cli("data", "convert", "empty", "out")
    assert ended.code == 3
    assert "kb.jsonl" in ended.err


def test_fetch_brings_a_file_once_and_verifies_it_after(cli: Cli, tmp_path: Path) -> None:
    source = tmp_path / "train.json"
    source.write_text("[]", encoding="utf-8")
    arguments = ("data", "fetch", "wow", "--url", source.as_uri(), "--json")
    first = cli(*arguments).json
    assert first["downloaded"] is True
    assert Path(first["path"]).read_text(encoding="utf-8") == "[]"
    assert Path(first["path"]).parent == Path("data/wow")
    assert cli(*arguments).json["downloaded"] is False
    assert "whole" in cli(*arguments[:-1]).out


def test_fetch_without_an_address_says_which_files_are_needed(cli: Cli) -> None:
    ended = cli("data", "fetch", "wow")
    assert ended.code == 2
    assert "train.json" in ended.err


def test_check_says_what_the_token_limits_cut(cli: Cli, folder: Path) -> None:
    assert "no text is longer than the token limits" in cli("data", "check", str(folder)).out
    write_rows(folder / "kb.jsonl", {"id": "a", "text": "oil the tower clock " * 100}, PASSAGES[1])
    # Without a recipe the limits are what the passages need, as in training.
    assert "max_passage_tokens" not in cli("data", "check", str(folder)).out
    ended = cli("data", "check", str(folder), "--recipe", "demo")
    assert ended.code == 0
    for part in ("retriever", "generator"):
        assert f"{part}.max_passage_tokens=64 cuts 1 of 2 passages" in ended.out
        assert f"--set {part}.max_passage_tokens=" in ended.out
    record = cli("data", "check", str(folder), "--recipe", "demo", "--json").json
    cuts = {cut["setting"]: cut for cut in record["limits"]}
    assert cuts["retriever.max_passage_tokens"]["limit"] == 64
    assert cuts["retriever.max_passage_tokens"]["texts_cut"] == 1
    assert cuts["generator.max_response_tokens"]["texts_cut"] == 0


def test_check_goes_on_where_the_encoder_is_not_there(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jsarag import limits
    from jsarag.errors import BackendUnavailableError

    for flags in (("--encoder", "./nowhere"), ("--recipe", "dmeo")):
        assert cli("data", "check", str(folder), *flags).code == 2

    def away(*_: Any) -> None:
        raise BackendUnavailableError("no such model here")

    monkeypatch.setattr(limits, "measure_passages", away)
    ended = cli("data", "check", str(folder))
    assert (ended.code, "mine  fine" in ended.out) == (0, True)
    assert "what the token limits cut was not measured: no such model here" in ended.err
