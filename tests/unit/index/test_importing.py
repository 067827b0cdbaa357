"""Vectors made elsewhere: matched, proven by embedding a sample again, written block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.errors import DataError
from jsarag.index.flat import FlatIndex
from jsarag.index.importing import Variant, import_vectors, match, prove
from jsarag.index.interfaces import index_spec
from jsarag.index.store import PassageStore
from jsarag.index.streaming import write_index
from jsarag.index.verify import verify
from jsarag.types import Passage


@dataclass
class Given:
    """Vectors in memory, read in blocks of seven."""

    array: Any
    ids: Sequence[str] | None = None
    path: Path = Path("given.npy")

    @property
    def count(self) -> int:
        return len(self.array)

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    def take(self, places: Sequence[int]) -> Any:
        return self.array[list(places)]

    def blocks(self) -> Iterator[tuple[int, Any]]:
        for first in range(0, self.count, 7):
            yield first, self.array[first : first + 7]


@pytest.fixture
def base(kb: Any) -> KnowledgeBase:
    return KnowledgeBase(kb.passages, source="kb.jsonl")


@pytest.fixture
def embedded(encoder: Any, base: KnowledgeBase, render: Any) -> Any:
    return encoder.embed([render(passage) for passage in base], "passage", 8).numpy()


class TestMatch:
    def test_rows_follow_the_ids(self, base: KnowledgeBase, embedded: Any) -> None:
        assert match(Given(embedded), base, None).tolist() == list(range(50))
        backwards = tuple(reversed(base.ids))
        assert match(Given(embedded, backwards), base, None).tolist() == list(range(49, -1, -1))
        # What is given beside the file comes before what the file says.
        assert match(Given(embedded, backwards), base, base.ids).tolist() == list(range(50))

    @pytest.mark.parametrize(
        ("count", "ids", "says"),
        [
            (49, None, "expected 50 vectors, one for each passage of kb.jsonl.*found 49.*--ids"),
            (50, lambda ids: ids[:-1], "expected an id for each of 50 vectors, found 49"),
            (50, lambda ids: ["x", *ids[1:]], "1 ids are of no passage of kb.jsonl: 'x'"),
            (50, lambda ids: [*ids[:-1], ids[0]], "1 ids come more than once: 'p0'"),
            (49, lambda ids: ids[:-1], "1 of 50 passages of kb.jsonl have no vector: 'p49'"),
        ],
    )
    def test_what_does_not_match_is_named(
        self, base: KnowledgeBase, embedded: Any, count: int, ids: Any, says: str
    ) -> None:
        given = None if ids is None else ids(list(base.ids))
        with pytest.raises(DataError, match=f"given.npy: {says}"):
            match(Given(embedded[:count]), base, given)


class TestProve:
    @pytest.fixture
    def again(self, encoder: Any, render: Any) -> Any:
        def embed(passages: Sequence[Passage]) -> Tensor:
            found: Tensor = encoder.embed([render(one) for one in passages], "passage", 8)
            return found

        return embed

    def prove(self, array: Any, base: KnowledgeBase, embed: Any, **settings: Any) -> Any:
        source = Given(array)
        rows = match(source, base, None)
        return prove(source, rows, base, embed, 24, model="words", **settings)

    def test_its_own_vectors_agree_whatever_their_length(
        self, base: KnowledgeBase, embedded: Any, again: Any
    ) -> None:
        proof = self.prove(embedded * 3.0, base, again, samples=20)
        assert proof.samples == 20
        assert proof.least_cosine > 0.99999

    def test_a_sample_holds_the_longest_passages(self, encoder: Any) -> None:
        seen: list[str] = []
        passages = [Passage(f"p{row}", "word " * (row % 40) + "end") for row in range(50)]

        def embed(some: Sequence[Passage]) -> Tensor:
            seen.extend(passage.id for passage in some)
            return torch.ones(len(some), 24)

        base = KnowledgeBase(passages)
        self.prove(np.ones((50, 24), np.float32), base, embed, samples=8)
        assert len(seen) == len(set(seen)) == 8
        assert {"p36", "p37", "p38", "p39"} <= set(seen)

    def test_the_worst_passages_and_the_causes_are_shown(
        self, base: KnowledgeBase, embedded: Any, again: Any
    ) -> None:
        array = embedded.copy()
        array[7] = -array[7]
        says = r"given.npy: not what words gives: 1 of 50 passages .*worst: 'p7' -1.0000, .*--ids"
        with pytest.raises(DataError, match=says):
            self.prove(array, base, again, samples=50)

    def test_a_variant_that_fits_is_named(
        self, base: KnowledgeBase, embedded: Any, again: Any, encoder: Any
    ) -> None:
        def plain(passages: Sequence[Passage]) -> Tensor:
            found: Tensor = encoder.embed([one.text for one in passages], "passage", 8)
            return found

        array = plain(base.passages).numpy()
        wrong = Variant("a wrong way", "nothing", lambda some: torch.ones(len(some), 24))
        right = Variant("the text alone", "drop the titles", plain)
        with pytest.raises(DataError, match="They agree with the text alone: drop the titles"):
            self.prove(array, base, again, variants=[wrong, right])
        with pytest.raises(DataError, match=r"1 variants .* were tried, none fits"):
            self.prove(array, base, again, variants=[wrong])

    def test_another_width_is_named_before_anything_is_embedded(self, base: KnowledgeBase) -> None:
        def never(passages: Sequence[Passage]) -> Tensor:
            raise AssertionError("embedded")

        with pytest.raises(DataError, match=r"expected vectors of 24 numbers, as words gives.*12"):
            self.prove(np.ones((50, 12), np.float32), base, never)


class TestImport:
    def write(
        self, folder: Path, source: Given, base: KnowledgeBase, encoder: Any, **more: Any
    ) -> Any:
        settings: dict[str, Any] = {"dtype": "f32", "extra": {"name": "kb"}, **more}
        spec = index_spec(encoder, base.digest)
        rows = match(source, base, None)
        return import_vectors(folder, source, rows, base, spec=spec, **settings)

    @pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
    def test_it_is_the_index_that_embedding_would_have_made(
        self,
        tmp_path: Path,
        base: KnowledgeBase,
        embedded: Any,
        encoder: Any,
        dtype: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        order = np.random.default_rng(1).permutation(50)
        source = Given(embedded[order], [base.ids[row] for row in order])
        told: list[tuple[int, int]] = []
        _, scaled = self.write(
            tmp_path / "idx",
            source,
            base,
            encoder,
            dtype=dtype,
            progress=lambda done, total: told.append((done, total)),
        )
        assert scaled == 0
        assert told[-1] == (50, 50)
        stored = torch.from_numpy(embedded).to(FlatIndex.open(tmp_path / "idx").embeddings.dtype)
        index = FlatIndex.open(tmp_path / "idx", index_spec(encoder, base.digest))
        torch.testing.assert_close(index.embeddings, stored, atol=1e-6, rtol=0)
        assert [
            passage.id for passage in map(PassageStore(tmp_path / "idx").__getitem__, (0, 49))
        ] == [
            "p0",
            "p49",
        ]
        assert verify(tmp_path / "idx") == []

    def test_vectors_of_other_lengths_are_scaled_to_one(
        self, tmp_path: Path, base: KnowledgeBase, embedded: Any, encoder: Any
    ) -> None:
        _, scaled = self.write(tmp_path / "idx", Given(embedded * 2.5), base, encoder)
        assert scaled == 50
        found = FlatIndex.open(tmp_path / "idx").embeddings
        torch.testing.assert_close(found, torch.from_numpy(embedded), atol=1e-6, rtol=0)

    @pytest.mark.parametrize(
        ("value", "says"), [(np.nan, "NaN or infinity"), (np.inf, "NaN"), (0.0, "zeros alone")]
    )
    def test_a_vector_without_direction_leaves_nothing_behind(
        self,
        tmp_path: Path,
        base: KnowledgeBase,
        embedded: Any,
        encoder: Any,
        value: float,
        says: str,
    ) -> None:
        array = embedded.copy()
        array[20] = value
        with pytest.raises(DataError, match=f"vector 20, passage 'p20': .*{says}"):
            self.write(tmp_path / "idx", Given(array), base, encoder)
        assert list(tmp_path.iterdir()) == []


class TestWriter:
    def test_files_are_those_of_save(self, tmp_path: Path, kb: Any) -> None:
        vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
        shard_bytes = 16 * 4 * 32
        index = FlatIndex(vectors, 3, {"model": "m"})
        saved = index.save(tmp_path / "a", kb, {"name": "x"}, shard_bytes=shard_bytes)
        rows = torch.randperm(50, generator=torch.Generator().manual_seed(1))
        written = write_index(
            tmp_path / "b",
            kb,
            (
                (rows[first : first + 9], vectors[rows[first : first + 9]])
                for first in range(0, 50, 9)
            ),
            width=16,
            dtype="f32",
            spec={"model": "m"},
            generation=3,
            extra={"name": "x"},
            shard_bytes=shard_bytes,
        )
        assert list(written.shards) == list(saved.shards)
        assert written.files == saved.files
        assert (written.encoder, written.extra) == (saved.encoder, saved.extra)
        names = sorted(path.name for path in (tmp_path / "a").iterdir())
        assert sorted(path.name for path in (tmp_path / "b").iterdir()) == names

    @pytest.mark.parametrize(
        ("rows", "says"), [([0, 0], "a row came twice"), ([0], "a vector for each of 50 passages")]
    )
    def test_every_row_comes_once(
        self, tmp_path: Path, kb: Any, rows: list[int], says: str
    ) -> None:
        blocks = [(torch.tensor([row]), torch.ones(1, 4)) for row in rows]
        with pytest.raises(DataError, match=says):
            write_index(tmp_path / "idx", kb, blocks, width=4, dtype="f32", spec={})
        assert not (tmp_path / "idx").exists()
