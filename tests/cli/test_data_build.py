"""``data build``: from documents and a table to a folder that ``data check`` finds fine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("semantic_text_splitter")

Cli = Callable[..., Any]
FOOTER = "Copyright by Example Limited, Springfield."


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Three pages with a line that each has, a copy of one, and a table of questions."""
    docs = tmp_path / "docs"
    docs.mkdir()
    pages = {
        "returns": "# Returns\n\nSend it back within 30 days.\n\n## Socks\n\nSocks stay.\n",
        "prices": "# Prices\n\nShipping costs three crowns.\n",
        "hours": "# Hours\n\nThe shop opens at nine.\n",
    }
    for name, text in pages.items():
        (docs / f"{name}.md").write_text(f"{text}\n{FOOTER}\n")
    (docs / "old-prices.md").write_text((docs / "prices.md").read_text())
    (docs / "logo.png").write_bytes(b"")
    (tmp_path / "faq.csv").write_text(
        "Frage,Antwort,Seite\n"
        "How long may I wait?,30 days,returns.md\n"
        "May I return socks?,no,returns.md#Socks\n"
        "What does shipping cost?,three crowns,prices.md\n"
        "When do you open?,at nine,hours.md\n"
        "Where are you?,,nowhere.md\n"
        "Do you have a dog?,yes,nowhere.md\n"
    )
    return docs


BUILD = ("data", "build", "docs", "--questions", "faq.csv", "--output", "my")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_writes_what_check_finds_fine_and_says_what_it_did(cli: Cli, docs: Path) -> None:
    ended = cli(*BUILD, "--dev-fraction", "0.4")
    assert ended.code == 0, ended.err
    assert "question from 'Frage'; answer from 'Antwort'; source from 'Seite'" in ended.out
    for said in (
        "1 row of the table left out: faq.csv:6: field 'Antwort': empty",
        "1 source without a document or title of that name: 'nowhere.md'",
        "1 document left out as copies: prices.md repeats old-prices.md",
        f"'{FOOTER}' (3 documents)",
        "files of other kinds left out: .png (1)",
    ):
        assert said in ended.err
    passages = lines(docs.parent / "my" / "kb.jsonl")
    assert [passage["title"] for passage in passages] == [
        "Hours",
        "Prices",
        "Returns",
        "Returns > Socks",
    ]
    assert passages[-1]["meta"] == {"source": "returns.md", "part": 2, "line": 7}
    rows = [row for split in ("train", "dev") for row in lines(docs.parent / f"my/{split}.jsonl")]
    gold = {row["question"]: row.get("gold_passages", []) for row in rows}
    assert gold["May I return socks?"] == [passages[-1]["id"]]
    assert gold["What does shipping cost?"] == [passages[1]["id"]]
    assert gold["Do you have a dog?"] == []
    checked = cli("data", "check", "my", "--json")
    assert checked.code == 0
    assert checked.json["splits"]["dev"]["contexts_in_train"] == 0
    again = cli(*BUILD, "--json").json
    assert (again["documents"], again["passages"]) == (4, 4)


def test_ids_stay_when_other_files_change(cli: Cli, docs: Path) -> None:
    cli(*BUILD)
    before = {row["id"] for row in lines(docs.parent / "my" / "kb.jsonl")}
    (docs / "aaa.md").write_text("# New\n\nA page more.\n")
    (docs / "hours.md").unlink()
    assert cli(*BUILD).code == 0
    after = {row["id"] for row in lines(docs.parent / "my" / "kb.jsonl")}
    assert {identity.partition("#")[0] for identity in before - after} == {"hours.md"}
    assert {identity.partition("#")[0] for identity in after - before} == {"aaa.md"}


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--map", "answer=Antwrt"), 3, "did you mean 'Antwort'"),
        (("--map", "Antwort"), 2, "expected role=COLUMN"),
        (("--split-by", "sorce"), 2, "did you mean 'source'"),
        (("--dev-fraction", "1.5"), 2, "above 0 and below 1"),
        (("--max-tokens", "9999"), 2, "reads 512 tokens"),
        (("--max-tokens", "64", "--overlap-tokens", "60"), 2, "at most half the limit"),
        (("--questions", "none.csv"), 3, "none.csv: expected a file, found none"),
        (("--output", "docs"), 3, "expected no folder, an empty one"),
    ],
)
def test_what_is_wrong_is_said(
    cli: Cli, docs: Path, flags: tuple[str, ...], code: int, says: str
) -> None:
    ended = cli(*BUILD, *flags)
    assert ended.code == code
    assert says in ended.err
    assert not (docs.parent / "my").exists()


def test_documents_that_cannot_be_read_end_with_3(cli: Cli, docs: Path) -> None:
    for path in docs.iterdir():
        path.unlink()
    (docs / "a.md").write_bytes(b"\0")
    ended = cli(*BUILD)
    assert ended.code == 3
    assert "a.md: expected text, found a binary file" in ended.err


def test_without_the_extra_it_ends_with_4(
    cli: Cli, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    ended = cli(*BUILD)
    assert ended.code == 4
    assert "pip install 'jsarag[documents]'" in ended.err


def test_check_and_convert_name_build_for_a_folder_of_documents(cli: Cli, docs: Path) -> None:
    for verb in (("check", "docs"), ("convert", "docs", "out")):
        ended = cli("data", *verb)
        assert ended.code == 3
        assert "jsarag data build docs --questions FILE --output FOLDER" in ended.out + ended.err
        assert "data convert" not in ended.out + ended.err
