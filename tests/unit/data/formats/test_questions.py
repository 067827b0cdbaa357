"""NQ-open, DPR, KILT, TriviaQA, MS MARCO, BEIR and CSV, in files made up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jsarag.data.formats import (
    beir,
    csv,
    dpr,
    format_names,
    get_format,
    kilt,
    msmarco,
    nq,
    triviaqa,
)
from jsarag.errors import DataError
from jsarag.types import Passage, Turn

from .conftest import lines

BLOCKS = 'id\ttext\ttitle\n1\t"A ""quoted"" word."\tPage one\n2\tPlain\twords\n3\t"Two\nlines"\tP\n'


def test_every_format_is_found_by_its_file() -> None:
    assert format_names() == [
        "beir",
        "csv",
        "doqa",
        "dpr",
        "kilt",
        "msmarco",
        "nq",
        "orquac",
        "squad",
        "triviaqa",
        "wow",
    ]
    for name in format_names():
        found = get_format(name)
        assert found.name == name
        assert found.files
        assert "train" in found.splits
        assert all(need.name in found.what_to_put(Path("x")) for need in found.files)
    with pytest.raises(DataError, match="did you mean 'squad'"):
        get_format("squd")


# ---------------------------------------------------------------- NQ-open


def test_nq_with_googles_rows(tmp_path: Path, put: Any) -> None:
    put("psgs_w100.tsv", BLOCKS)
    put("NQ-open.train.jsonl", lines({"question": "who", "answer": ["a", "b", "a"]}))
    put(
        "NQ-open.dev.jsonl",
        lines({"question": "what ", "answer": ["c"]}, {"question": "x", "answer": []}),
    )
    data = nq.read(tmp_path, ("train", "dev"), {})
    assert list(data.passages) == [
        Passage("1", 'A "quoted" word.', "Page one"),
        Passage("2", "Plain", "words"),
        Passage("3", "Two\nlines", "P"),
    ]
    assert data.splits["train"][0].answers == ("a", "b")
    assert data.splits["train"][0].gold_passages == ()
    assert [e.question for e in data.splits["dev"]] == ["what"]
    assert data.notes == ("nq: questions without a text or an answer, left out: 1",)


def test_nq_with_dprs_rows(tmp_path: Path, put: Any) -> None:
    put("psgs_w100.tsv.gz", BLOCKS)
    row = "who's \"that\"\t['a', \"b's\"]\n"
    put("nq-train.qa.csv", row + "when\t['1']\n")
    put("nq-test.qa.csv", 'what\t["x"]\n')
    put("NQ-open.dev.jsonl", lines({"question": "q", "answer": ["c"]}))
    data = nq.read(tmp_path, ("train", "test"), {})
    assert [(e.question, e.answers) for e in data.splits["train"]] == [
        ('who\'s "that"', ("a", "b's")),
        ("when", ("1",)),
    ]
    mixed = nq.read(tmp_path, ("train", "dev"), {})
    assert "two families" in mixed.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("psgs_w100.tsv", "id\ttext\ttitle\n1\tonly text\n", ":2: expected three columns"),
        ("psgs_w100.tsv", "id\ttext\ttitle\n1\t\tT\n", ":2: field 'text'"),
        ("nq-train.qa.csv", "who\n", ":1: expected two columns"),
        ("nq-train.qa.csv", "who\tsome answer\n", ":1: field 'answers': expected a list of texts"),
        ("nq-train.qa.csv", "who\t__import__('os').system('x')\n", "expected a list of texts"),
        ("nq-train.qa.csv", "who\t[1, 2]\n", "expected a list of texts"),
    ],
)
def test_nq_names_the_line(tmp_path: Path, put: Any, name: str, content: str, words: str) -> None:
    put("psgs_w100.tsv", BLOCKS)
    put("nq-train.qa.csv", "who\t['a']\n")
    put(name, content)
    with pytest.raises(DataError) as caught:
        nq.read(tmp_path, ("train",), {})
    assert words in str(caught.value)


def test_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "psgs_w100.tsv").write_bytes(b"id\ttext\ttitle\n1\tcaf\xe9\tT\n")
    with pytest.raises(DataError, match="expected UTF-8"):
        list(nq.blocks(tmp_path / "psgs_w100.tsv"))


# ---------------------------------------------------------------- DPR and FiD


def test_dpr_training_file(tmp_path: Path, put: Any) -> None:
    rows = [
        {
            "question": "who",
            "answers": ["a"],
            "positive_ctxs": [{"title": "T", "text": "gold", "passage_id": "11", "score": 1}],
            "negative_ctxs": [],
            "hard_negative_ctxs": [{"text": "hard", "psg_id": 12}, {"title": "U", "text": "free"}],
        },
        {"question": "none", "answers": ["b"], "positive_ctxs": []},
        {"question": "no answer", "answers": []},
    ]
    put("biencoder-nq-train.json.gz", rows)
    data = dpr.read(tmp_path, ("train",), {})
    assert [(p.id, p.title, p.text) for p in data.passages[:2]] == [
        ("11", "T", "gold"),
        ("12", "", "hard"),
    ]
    assert data.passages[2].id.startswith("dpr-")
    assert [e.gold_passages for e in data.splits["train"]] == [("11",), ()]
    put("psgs_w100.tsv", "id\ttext\ttitle\n12\thard\tT\n")
    fixed = dpr.read(tmp_path, ("train",), {})
    assert [p.id for p in fixed.passages] == ["12"]
    assert fixed.splits["train"][0].gold_passages == ()
    assert any("positive contexts that psgs_w100.tsv lacks" in note for note in fixed.notes)


def test_retriever_output_and_marked_gold(tmp_path: Path, put: Any) -> None:
    row = {
        "question": "who",
        "answers": ["a", "b"],
        "target": "b",
        "ctxs": [
            {"id": "1", "title": "T", "text": "x", "score": "0.5", "has_answer": True},
            {"id": "2", "title": "T", "text": "y", "isgold": True},
            {"id": "3", "title": "T", "text": ""},
        ],
    }
    put("dev.jsonl", lines(row, row))
    data = dpr.read(tmp_path, ("dev",), {})
    assert data.splits["dev"][0].answers == ("b", "a")
    assert data.splits["dev"][0].gold_passages == ("2",)
    assert [p.id for p in data.passages] == ["1", "2"]


# ---------------------------------------------------------------- KILT


def test_kilt(tmp_path: Path, put: Any) -> None:
    page = {
        "wikipedia_id": "7",
        "wikipedia_title": "Tea",
        "text": ["Tea\n", "Section::::History.\n", "It is old.\n", "It is hot.\n", "\n"],
    }
    put("kilt_knowledgesource.json", lines(page))
    provenance = {"wikipedia_id": "7", "start_paragraph_id": 2, "end_paragraph_id": 3}
    rows = [
        {"id": "a", "input": "Age?", "output": [{"answer": "old"}, {"provenance": [provenance]}]},
        {
            "id": "b",
            "input": "Hi\nYes?\nAge?",
            "output": [
                {
                    "answer": "old",
                    "provenance": [
                        {"wikipedia_id": "9", "start_paragraph_id": 1, "end_paragraph_id": 1},
                        {"wikipedia_id": 7, "start_paragraph_id": 3},
                        {"title": "Tea"},
                    ],
                }
            ],
        },
        {"id": "c", "input": "Why?", "output": []},
    ]
    put("wow-train-kilt.jsonl", lines(*rows))
    data = kilt.read(tmp_path, ("train",), {})
    assert [(p.id, p.title, p.text) for p in data.passages] == [
        ("7-2", "Tea", "It is old."),
        ("7-3", "Tea", "It is hot."),
    ]
    first, second = data.splits["train"]
    assert (first.question, first.answers, first.gold_passages) == (
        "Age?",
        ("old",),
        ("7-2", "7-3"),
    )
    assert second.history == (Turn("user", "Hi"), Turn("system", "Yes?"), Turn("user", "Age?"))
    assert second.gold_passages == ("7-3",)
    assert len(data.notes) == 2


# ---------------------------------------------------------------- TriviaQA


def test_triviaqa(tmp_path: Path, put: Any) -> None:
    def question(number: int, value: str = "Tea") -> dict[str, Any]:
        return {
            "Question": "Which drink?",
            "QuestionId": f"tc_{number}",
            "Answer": {"Value": value, "Aliases": ["Cha", value], "NormalizedValue": "tea"},
            "EntityPages": [{"Filename": "Tea.txt", "Title": "Tea"}, {"Filename": "No.txt"}],
            "SearchResults": [{"Filename": "1/w.txt", "Title": "Web"}],
        }

    put("qa/wikipedia-train.json", {"Data": [question(1), question(2, "")], "Domain": "Wikipedia"})
    put("evidence/wikipedia/Tea.txt", " ".join(f"w{n}" for n in range(230)))
    put("evidence/web/1/w.txt", "a web page")
    data = triviaqa.read(tmp_path, ("train",), {})
    assert [(p.title, len(p.text.split())) for p in data.passages] == [
        ("Tea", 100),
        ("Tea", 100),
        ("Tea", 30),
        ("Web", 3),
    ]
    assert [e.answers for e in data.splits["train"]] == [("Tea", "Cha"), ("Cha",)]
    assert data.splits["train"][0].gold_passages == ()
    assert data.notes == ("triviaqa: wikipedia pages that are not in evidence/, left out: 1",)


# ---------------------------------------------------------------- MS MARCO


def marco_rows() -> list[dict[str, Any]]:
    passages = [
        {"is_selected": 0, "passage_text": "one", "url": "u"},
        {"is_selected": 1, "passage_text": "two", "url": "u"},
    ]
    return [
        {
            "query": "q a",
            "query_id": 5,
            "query_type": "ENTITY",
            "passages": passages,
            "answers": ["x"],
            "wellFormedAnswers": ["It is x."],
        },
        {
            "query": "q b",
            "query_id": 6,
            "query_type": "ENTITY",
            "passages": passages[:1],
            "answers": ["y"],
            "wellFormedAnswers": "[]",
        },
        {
            "query": "q c",
            "query_id": 7,
            "query_type": "ENTITY",
            "passages": passages[:1],
            "answers": ["No Answer Present."],
            "wellFormedAnswers": "[]",
        },
    ]


@pytest.mark.parametrize("by_columns", [True, False])
def test_msmarco(tmp_path: Path, put: Any, by_columns: bool) -> None:
    rows = marco_rows()
    if by_columns:
        keys = rows[0].keys()
        columns = {key: {str(n): row[key] for n, row in enumerate(rows)} for key in keys}
        put("train_v2.1.json.gz", columns)
    else:
        put("train_v2.1.jsonl", lines(*rows))
    data = msmarco.read(tmp_path, ("train",), {})
    assert [p.text for p in data.passages] == ["one", "two"]
    assert [(e.id, e.answers) for e in data.splits["train"]] == [
        ("5", ("x", "It is x.")),
        ("6", ("y",)),
    ]
    assert data.splits["train"][0].gold_passages == (data.passages[1].id,)
    assert data.splits["train"][1].gold_passages == ()
    assert data.notes == ("msmarco: queries without an answer, left out: 1",)


def test_msmarco_names_the_row(tmp_path: Path, put: Any) -> None:
    put("train_v2.1.json", {"query": {"0": "q"}, "passages": {"0": [{"passage_text": "t"}]}})
    with pytest.raises(DataError, match=r"row '0'.passages\[0\]': expected the key 'is_selected'"):
        msmarco.read(tmp_path, ("train",), {})


# ---------------------------------------------------------------- BEIR


def test_beir(tmp_path: Path, put: Any) -> None:
    put(
        "corpus.jsonl",
        lines(
            {"_id": "1", "title": "T", "text": "x", "metadata": {}},
            {"_id": "2", "title": "only a title", "text": ""},
            {"_id": "3", "title": "", "text": ""},
        ),
    )
    put(
        "queries.jsonl",
        lines(
            {"_id": "q1", "text": "why", "metadata": {"answers": ["so"]}},
            {"_id": "q2", "text": "how"},
            {"_id": "q3", "text": "not judged"},
        ),
    )
    judged = "query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t2\t0\nq1\t9\t1\nq2\t2\t1\n"
    put("qrels/dev.tsv", judged)
    data = beir.read(tmp_path, ("dev",), {})
    assert [(p.id, p.title, p.text) for p in data.passages] == [
        ("1", "T", "x"),
        ("2", "", "only a title"),
    ]
    first, second = data.splits["dev"]
    assert (first.question, first.answers, first.gold_passages) == ("why", ("so",), ("1",))
    assert (second.answers, second.gold_passages) == (("",), ("2",))
    assert any("only the prior can be measured): 1" in note for note in data.notes)
    assert any("about passages the corpus lacks, left out: 1" in note for note in data.notes)
    put("qrels/dev.tsv", "q1\t1\t1\nzz\t1\t1\n")
    with pytest.raises(DataError, match=r"dev\.tsv:2: field 'query-id': 'zz' is no query"):
        beir.read(tmp_path, ("dev",), {})
    put("qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq1\t1\tyes\n")
    with pytest.raises(DataError, match=r":2: expected query-id, corpus-id and a whole score"):
        beir.read(tmp_path, ("dev",), {})
    with pytest.raises(DataError, match=r"qrels/train\.tsv"):
        beir.read(tmp_path, ("train",), {})


# ---------------------------------------------------------------- CSV


def test_csv(tmp_path: Path, put: Any) -> None:
    put("kb.csv", 'id,text,title\n1,"One, with a comma",T\n2,"Two\nlines",\n')
    put(
        "train.tsv",
        "id\tquestion\tAnswer\tgold_passages\tnote\n"
        '7\twhy\tso\t1\tx\n8\thow\t["a", "b"]\t["1", "2"]\t\n',
    )
    data = csv.read(tmp_path, ("train",), {"answers": "Answer"})
    assert data.passages[0] == Passage("1", "One, with a comma", "T")
    assert data.passages[1].text == "Two\nlines"
    first, second = data.splits["train"]
    assert (first.answers, first.gold_passages) == (("so",), ("1",))
    assert (second.answers, second.gold_passages) == (("a", "b"), ("1", "2"))
    assert data.notes == ("train.tsv: ignored keys note (2)",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,question,answers\n1,why\n", ":2: expected 3 cells as in the header, found 2"),
        ("id,question,answers\n1,,so\n", ":2: field 'question'"),
        ('id,question,answers\n1,why,"[""a"""\n', ":2: field 'answers': expected JSON"),
        ("1,why,so\n", ":1: expected a header with our columns"),
        ("", "expected a header"),
        ("id,question,answers,gold_passages\n1,why,so,9\n", "'9' is no passage"),
        (
            "id,question,answers\n1,why,so\n1,how,so\n",
            ":3: field 'id': '1' is also the id of line 2",
        ),
    ],
)
def test_csv_names_the_line(tmp_path: Path, put: Any, content: str, words: str) -> None:
    put("kb.csv", "id,text\n1,One\n")
    put("train.csv", content)
    with pytest.raises(DataError) as caught:
        csv.read(tmp_path, ("train",), {})
    assert words in str(caught.value)
