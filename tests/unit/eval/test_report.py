"""The report holds the run's numbers, stands alone, and no text can break out of it."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jsarag.errors import DataError
from jsarag.eval.report import write_report
from jsarag.eval.run_record import read_run
from jsarag.io.records import without_seal, write_record
from jsarag.io.run_dir import RunDir

from .fake_run import make_run

VOID = {"meta", "link", "img", "br", "hr", "input"}
EVIL = "</script></p><script>alert(1)</script><img src=x onerror=alert(2)>'\"&$body${title}"


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(html)
        assert self.stack == [], f"left open: {self.stack}"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack[-1] == tag, f"</{tag}> closes <{self.stack[-1]}>"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack[-1:] != ["style"]:
            self.text += data


def page_of(path: Path) -> tuple[Page, str]:
    html = path.read_text(encoding="utf-8")
    return Page(html), html


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs") / "ferry-jsa-1")


def test_shows_the_scores_of_both_evaluations_and_their_difference(finished: RunDir) -> None:
    path = write_report(finished, samples=300)
    assert path == finished.report_path
    page, _ = page_of(path)
    for name in ("dev-before", "dev"):
        metrics = json.loads((finished.eval_path(name) / "metrics.json").read_text())
        prior, generation = metrics["retrieval"]["prior"], metrics["generation"]
        for metric in ("R@1", "R@5", "R@10", "MRR@10"):
            assert f"{prior[metric]:.3f}" in page.text
            low, high = prior["intervals"][metric]
            assert f"{low:.3f}–{high:.3f}" in page.text
        assert f"{generation['F1']:.3f}" in page.text
        assert f"{generation['BLEU-4']:.1f}" in page.text
        assert metrics["signature"] in page.text
    record = read_run(finished, samples=300)
    assert record.comparison is not None
    change = record.comparison.prior["R@1"]
    assert change is not None
    assert f"+{change.value:.3f}" in page.text
    assert f"+{change.low:.3f} to +{change.high:.3f}" in page.text
    assert "Clearly up" in page.text
    assert "finished after 100 steps" in page.text


def test_shows_what_was_run_and_what_happened(finished: RunDir) -> None:
    page, _ = page_of(write_report(finished, samples=100))
    for text in (
        "query-likelihood", "snis, 16 draws", "whole knowledge base", "2 min 32 s",
        "mis_chain runs on the reference", "12 of 1200 texts cut",
        "The likelihood carries evidence", "AUC 0.86", "margin 0.35 (0.26 to 0.44)",
        "backward", "# flag --dataset",
        "Retrieval on dev", "Effective sample size",
    ):  # fmt: skip
        assert text in page.text
    environment = json.loads(finished.env_path.read_text())
    assert environment["cpu"] in page.text
    if environment["commit"]:
        assert environment["commit"][:12] in page.text


def test_stands_alone(finished: RunDir) -> None:
    page, html = page_of(write_report(finished, samples=100))
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|url\(|@import", html)


def test_examples_show_gold_rising_by_rule(finished: RunDir) -> None:
    page, html = page_of(write_report(finished, samples=100))
    rows = {
        name: {
            row["id"]: next((p["rank"] for p in row["passages"] if p["gold"]), 11)
            for row in map(
                json.loads,
                (finished.eval_path(name) / "predictions.jsonl").read_text().splitlines(),
            )
        }
        for name in ("dev-before", "dev")
    }
    gain = {name: rows["dev-before"][name] - rows["dev"][name] for name in rows["dev"]}
    best = max(gain, key=lambda name: (gain[name], -list(gain).index(name)))
    assert gain[best] > 5
    first = html.index('<article class="card example">')
    assert best in html[first : html.index("</header>", first)]
    assert "● gold" in page.text
    assert "What are the rules on" in page.text


def test_nothing_from_outside_becomes_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "evil", steps=20, evil=EVIL)
    run.append_metrics(
        {
            "kind": "train",
            "step": 20,
            "stations": {EVIL: 1.0},
            "loss": 1.0,
        }
    )
    run.append_metrics({"kind": "evidence", "step": 20, "verdict": EVIL, "auc": EVIL})
    page, html = page_of(write_report(run, samples=100))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "${title}" in page.text  # data is not a template
    assert html.count("<main>") == 1


@pytest.mark.parametrize("missing", ["gold", "generator"])
def test_partial_scores(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path / "run", steps=20, **{missing: False})  # type: ignore[arg-type]
    page, _ = page_of(write_report(run, samples=100))
    if missing == "gold":
        assert "F1 on dev" in page.text
        assert "Prior retriever" not in page.text
        assert "No gold passage" in page.text
        assert "rows name no gold passage" in page.text
    else:
        assert "R@1 on dev" in page.text
        assert "BLEU-4" not in page.text
        assert "Generated" not in page.text


def test_an_unfinished_run_shows_its_latest_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=60, finished=False)
    page, _ = page_of(write_report(run, samples=100))
    assert "unfinished: step 60 of 60" in page.text
    latest = [row for row in run.read_metrics() if row["kind"] == "eval"][-1]
    assert latest["step"] == 40
    assert f"{latest['retrieval']['prior']['R@1']:.3f}" in page.text
    assert "at the last evaluation" in page.text
    assert "Clearly" not in page.text  # no rows, so no paired test


def test_a_run_continued_after_its_end_is_not_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    run.append_metrics({"kind": "train", "step": 25, "loss": 30.0})
    page, _ = page_of(write_report(run, samples=100))
    assert "unfinished: step 25" in page.text
    run.append_metrics({"kind": "summary", "step": 30})
    assert "finished after 30 steps" in page_of(write_report(run, samples=100))[0].text


def test_no_evidence_is_said_plainly(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    run.append_metrics({"kind": "evidence", "step": 20, "verdict": "chance", "advice": "do this"})
    page, _ = page_of(write_report(run, samples=100))
    assert "The likelihood carries no evidence" in page.text
    assert "do this" in page.text


def test_every_part_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    page, _ = page_of(write_report(tmp_path / "empty"))
    assert "Nothing scored yet" in page.text
    assert "not trained yet" in page.text
    whole = make_run(tmp_path / "whole", steps=20)
    for entry in list(whole.path.iterdir()):
        copy = tmp_path / f"without-{entry.name}"
        shutil.copytree(whole.path, copy)
        gone = copy / entry.name
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        page_of(write_report(copy, samples=100))
    with pytest.raises(DataError, match="nowhere"):
        write_report(tmp_path / "nowhere")


def test_damaged_files_are_named_not_fatal(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    run.env_path.write_text("{")
    run.config_path.write_text("a: [")
    (run.eval_path("dev") / "predictions.jsonl").write_text('{"id": "x"')
    run.metrics_path.write_text("{]\n")
    page, _ = page_of(write_report(run, samples=100))
    for text in ("env.json is damaged", "config.resolved.yaml is no YAML", "predictions.jsonl"):
        assert text in page.text
    assert "metrics.jsonl is damaged" in page.text


def test_unequal_settings_are_pointed_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=20)
    path = run.eval_path("dev") / "metrics.json"
    record = json.loads(path.read_text().replace("decoding:top1", "decoding:concat"))
    write_record(path, without_seal(record))
    page, _ = page_of(write_report(run, samples=100))
    assert "not scored alike: decoding top1 then concat" in page.text
