"""Settings that nobody set follow the data; those that somebody set stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jsarag.config.load import Resolved, parse_set, resolve
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.registry import Dataset
from jsarag.data.selection import load_rows
from jsarag.errors import DataError
from jsarag.fitting import fit_data, fit_limits, is_fitted
from jsarag.limits import fitting_limits, measure_passages
from jsarag.types import Example, Passage

WORD = "otter "


def settings(*given: str, recipe: str | None = None) -> Resolved:
    overrides = [parse_set(text) for text in given]
    return resolve(recipe=recipe, environment={}, overrides=overrides)


def dataset(rows: int, words: int = 10) -> Dataset:
    examples = [Example(str(n), ("yes",), question=f"number {n}") for n in range(rows)]
    return Dataset("x", KnowledgeBase([Passage("a", WORD * words)]), {"train": examples})


class TestSteps:
    @pytest.mark.parametrize(
        ("rows", "given", "steps"),
        [
            (68, [], 40),
            (8, [], 20),
            (160, [], 100),
            (5000, [], 100),
            (68, ["train.batch_size=8"], 80),
            (68, ["train.batch_size=8", "train.gradient_accumulation_steps=2"], 40),
        ],
    )
    def test_they_follow_the_rows(self, rows: int, given: list[str], steps: int) -> None:
        fitted = fit_data(settings(*given), dataset(rows))
        assert fitted.config.train.max_steps == steps
        assert fitted.sources["train.max_steps"] == f"{rows:,} rows"
        (note,) = [note for note in fitted.notes if "max_steps" in note]
        assert f"{steps} steps" in note
        assert f"over {rows:,} rows" in note

    @pytest.mark.parametrize(("rows", "warm_up"), [(8, 5), (68, 10), (5000, 10)])
    def test_the_learning_rate_rises_over_a_quarter_of_a_short_run(
        self, rows: int, warm_up: int
    ) -> None:
        assert fit_data(settings(), dataset(rows)).config.train.warmup_steps == warm_up
        own = fit_data(settings("train.warmup_steps=9"), dataset(rows))
        assert own.config.train.warmup_steps == 9

    @pytest.mark.parametrize(
        "given",
        ["train.max_steps=7", "train.max_seconds=60", "train.max_generator_forwards=900"],
    )
    def test_who_says_how_long_is_heard(self, given: str) -> None:
        resolved = settings(given)
        assert fit_data(resolved, dataset(68)).config.train == resolved.config.train

    def test_a_recipe_is_heard(self) -> None:
        resolved = settings(recipe="sktod")
        assert not is_fitted(resolved)
        assert fit_data(resolved, dataset(68)) is resolved


class TestLimits:
    def test_short_passages_get_what_the_longest_needs(self) -> None:
        found = fit_limits(settings(), dataset(2, words=10).kb.passages)
        cuts = measure_passages(found.config, dataset(2, words=10).kb.passages)
        assert [cut.texts_cut for cut in cuts] == [0, 0]
        assert [cut.longest for cut in cuts] == [
            found.config.retriever.max_passage_tokens,
            found.config.generator.max_passage_tokens,
        ]
        assert "the longest of 1 passages" in found.notes[0]

    def test_no_more_than_the_model_reads_and_the_cut_is_said(self) -> None:
        found = fit_limits(settings(), dataset(2, words=900).kb.passages)
        limit = found.config.retriever.max_passage_tokens
        assert 160 < limit <= 512
        assert "all that the model reads; 1 of 1 passages are longer and are cut" in found.notes[0]

    def test_a_few_long_ones_are_not_paid_for_by_all(self) -> None:
        passages = [Passage(str(n), WORD * 10) for n in range(999)] + [Passage("l", WORD * 100)]
        (retriever, _) = fitting_limits(settings().config, passages)
        assert retriever.limit < 30
        assert (retriever.texts_cut, retriever.longest > 90) == (1, True)
        assert "99.5% of 1,000 passages are no longer; 1 are cut" in retriever.describe()

    def test_what_is_set_stays(self) -> None:
        resolved = settings("retriever.max_passage_tokens=33", "generator.max_passage_tokens=44")
        assert fit_limits(resolved, dataset(2).kb.passages) is resolved
        one = fit_limits(settings("retriever.max_passage_tokens=33"), dataset(2).kb.passages)
        assert one.config.retriever.max_passage_tokens == 33
        assert one.sources["generator.max_passage_tokens"] == "1 passages"

    def test_a_sample_is_measured_and_named(self) -> None:
        passages = [Passage(str(n), WORD * 5) for n in range(30)]
        (retriever, _) = fitting_limits(settings().config, passages, sample=10)
        assert (retriever.texts, retriever.there) == (10, 30)
        assert "of a sample" in retriever.describe()


class TestDevFraction:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows: dict[str, list[dict[str, Any]]] = {
            "kb": [{"id": "a", "text": "red"}],
            "train": [
                {"id": str(n), "question": f"number {n}", "answers": [f"a{n}"]} for n in range(20)
            ],
        }
        for name, items in rows.items():
            text = "\n".join(map(json.dumps, items))
            (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
        return tmp_path

    def load(self, folder: Path, **options: Any) -> Dataset:
        options = {"splits": ("train", "dev"), "dev_fraction": 0.2, **options}
        return load_rows(str(folder), data_dir=None, field_map={}, **options)

    def test_dev_is_cut_off_train_the_same_every_time(self, folder: Path) -> None:
        data = self.load(folder)
        ids = {split: {row.id for row in rows} for split, rows in data.splits.items()}
        assert len(ids["dev"]) == 4
        assert ids["train"] | ids["dev"] == {str(n) for n in range(20)}
        assert not ids["train"] & ids["dev"]
        assert self.load(folder).digest == data.digest
        assert any("16 train and 4 dev rows" in note for note in data.notes)
        # Reading dev alone, as `eval` does, or fewer training rows gives the same dev.
        assert self.load(folder, splits=("dev",)).splits["dev"] == data.splits["dev"]
        fewer = self.load(folder, max_train_examples=3)
        assert fewer.splits == {"train": data.splits["train"][:3], "dev": data.splits["dev"]}

    def test_a_dev_split_that_is_there_is_not_replaced(self, folder: Path) -> None:
        row = json.dumps({"question": "why", "answers": ["so"]})
        (folder / "dev.jsonl").write_text(row, encoding="utf-8")
        with pytest.raises(DataError, match=r"has a dev split.*leave out --dev-fraction"):
            self.load(folder)
        with pytest.raises(DataError, match=r"has a dev split"):
            self.load(Path("demo"))

    def test_without_it_the_error_says_that_it_exists(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"train --dataset .* --dev-fraction 0\.2"):
            self.load(folder, dev_fraction=None)
