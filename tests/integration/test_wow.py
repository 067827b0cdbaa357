"""`jsarag train --dataset wow`: what it says without the files, and that it trains with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jsarag_cli.main import run as run_cli

THINGS = [f"thinga{letter}" for letter in "abcdefgh"]


def episode(number: int) -> dict[str, Any]:
    """One exchange in the official form: the wizard repeats a code that one article holds."""
    thing, code = THINGS[number], f"codea{'abcdefgh'[number]}"
    sentences = [f"set the dial to {code}", "and wait"]
    return {
        "chosen_topic": thing,
        "chosen_topic_passage": sentences,
        "persona": "i use it",
        "wizard_eval": 5,
        "dialog": [
            {
                "speaker": "0_Apprentice",
                "text": f"how do i use the aliasa{'abcdefgh'[number]}",
                "retrieved_passages": [],
                "retrieved_topics": [],
            },
            {
                "speaker": "1_Wizard",
                "text": f"turn it to {code}",
                "checked_sentence": {f"chosen_{thing}_0": sentences[0]},
                "checked_passage": {f"chosen_topic_0_{thing}": thing},
                "retrieved_passages": [],
                "retrieved_topics": [],
                "candidate_responses": [],
            },
        ],
    }


@pytest.fixture
def official_files(tmp_path: Path) -> Path:
    folder = tmp_path / "official"
    folder.mkdir()
    episodes = [episode(number) for number in range(len(THINGS))]
    for name, rows in (("train.json", episodes), ("valid_random_split.json", episodes[:4])):
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_without_the_files_it_says_which_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(["train", "--dataset", "wow"]) == 3
    text = capsys.readouterr().err
    for word in ("--data-dir", "train.json", "valid_random_split.json", "wizard_of_wikipedia.tgz"):
        assert word in text
    (tmp_path / "empty").mkdir()
    assert run_cli(["train", "--dataset", "wow", "--data-dir", "empty"]) == 3
    text = capsys.readouterr().err
    assert "train.json" in text
    assert str(tmp_path / "empty") in text


def test_with_the_files_it_trains(
    official_files: Path,
    toy_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The recipe as shipped but for its models, which need the network, and its length."""
    monkeypatch.chdir(tmp_path)
    # In the folder an attempt without the files left behind.
    assert run_cli(["train", "--dataset", "wow"]) == 3
    settings = {
        "retriever.max_context_tokens": "32",
        "retriever.max_passage_tokens": "32",
        "generator.layers": "1",
        "train.warmup_steps": "1",
        "train.generator_warmup_steps": "2",
        "eval.bootstrap_samples": "100",
        "guards.evidence_examples": "8",
        "guards.evidence_passages": "3",
    }
    capsys.readouterr()
    code = run_cli(
        [
            *("train", "--dataset", "wow", "--data-dir", str(official_files), "--json", "--quiet"),
            *("--retriever", str(toy_encoder), "--generator", "copy", "--max-steps", "3"),
            *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
        ]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    result = json.loads(captured.out)
    assert result["steps"] == 3
    assert result["after"]["retrieval"]["prior"]["n"] == 4
    assert (tmp_path / "runs" / "wow-jsa-1" / "report.html").is_file()
