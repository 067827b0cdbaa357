"""A generator that is a table, an index that is a matrix product: everything exact, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from jsarag import randomness
from jsarag.errors import DataError
from jsarag.models.generator import Generator
from jsarag.types import Example, GeneratorInput, Passage, TokenLogp

LETTERS = "abc"
EOS = len(LETTERS)
Table = Callable[[str, str, tuple[int, ...]], Tensor]
"""(context, passage ids joined by '+', prefix) -> probabilities [V], V = 4, the last is the end."""


def random_table(context: str, passage: str, prefix: tuple[int, ...]) -> Tensor:
    """Some distribution that depends on everything it may depend on."""
    stream = randomness.generator(7, "table", context, passage, "/".join(map(str, prefix)))
    return torch.from_numpy(stream.dirichlet([0.6] * (EOS + 1)))


class TableGenerator(Generator):
    """p(y | x, h) read off a table; letters are tokens."""

    def __init__(self, table: Table = random_table) -> None:
        super().__init__(micro_batch=8)
        self.table = table
        self.scored: list[tuple[str, str]] = []

    @property
    def name(self) -> str:
        return "table"

    @property
    def eos_id(self) -> int:
        return EOS

    def encode_response(self, text: str) -> list[int]:
        return [*(LETTERS.index(letter) for letter in text), EOS]

    def decode(self, ids: Sequence[int]) -> str:
        ids = list(ids)
        end = ids.index(EOS) if EOS in ids else len(ids)
        return "".join(LETTERS[token] for token in ids[:end])

    def logp_of(self, item: GeneratorInput, prefix: Sequence[int]) -> Tensor:
        names = "+".join(passage.id for passage in item.passages)
        return self.table(item.context, names, tuple(prefix)).log()

    def token_logp(self, inputs: Sequence[GeneratorInput]) -> TokenLogp:
        rows = []
        for item in inputs:
            self.scored.append((item.passages[0].id, item.response))
            ids = self.encode_response(item.response)
            rows.append([self.logp_of(item, ids[:t])[token] for t, token in enumerate(ids)])
        width = max(map(len, rows), default=0)
        logp = torch.zeros(len(rows), width, dtype=torch.float64)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, values in enumerate(rows):
            logp[row, : len(values)] = torch.stack(values)
            mask[row, : len(values)] = True
        return TokenLogp(logp, mask)

    def next_token_logp(
        self, inputs: Sequence[GeneratorInput], prefixes: Sequence[Sequence[int]]
    ) -> Tensor:
        rows = [self.logp_of(item, prefix) for item, prefix in zip(inputs, prefixes, strict=True)]
        return torch.stack(rows)

    def generate(self, inputs: Sequence[GeneratorInput], *, max_new_tokens: int) -> list[str]:
        results = []
        for item in inputs:
            prefix: list[int] = []
            while len(prefix) < max_new_tokens and EOS not in prefix:
                prefix.append(int(self.logp_of(item, prefix).argmax()))
            results.append(self.decode(prefix))
        return results

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class Scan(NamedTuple):
    ids: Tensor
    scores: Tensor
    tile_lse: Tensor | None
    generation: int


class MatrixIndex:
    """Exact search by one matrix product; remembers what it was asked to exclude."""

    def __init__(self, embeddings: Tensor, generation: int = 3) -> None:
        self.embeddings, self.generation = embeddings, generation
        self.asked: list[tuple[int, Tensor | None]] = []

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Scan:
        self.asked.append((k, exclude))
        scores = queries @ self.embeddings.T
        if exclude is not None:
            for row, rows in enumerate(exclude.tolist()):
                scores[row, [passage for passage in rows if passage >= 0]] = -torch.inf
        width = min(k, len(self))
        best = scores.topk(width, dim=1)
        ids = best.indices.masked_fill(best.values.isinf(), -1)
        pad = (len(queries), k - width)
        return Scan(
            torch.cat([ids, torch.full(pad, -1)], dim=1),
            torch.cat([best.values, torch.full(pad, -torch.inf).to(scores)], dim=1),
            None,
            self.generation,
        )


class Kb:
    """Passages by row and id."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = list(passages)
        self.rows = {passage.id: row for row, passage in enumerate(passages)}

    def __len__(self) -> int:
        return len(self.passages)

    def __getitem__(self, row: int) -> Passage:
        return self.passages[row]

    def __contains__(self, passage_id: object) -> bool:
        return passage_id in self.rows

    def row_of(self, passage_id: str) -> int:
        if passage_id not in self.rows:
            raise DataError(f"no passage '{passage_id}'")
        return self.rows[passage_id]


def make_passages(count: int) -> tuple[Passage, ...]:
    return tuple(Passage(f"p{row}", f"text of {row}", f"title {row}") for row in range(count))


def make_examples(count: int) -> list[Example]:
    """Row i is about passage i; every fourth row has no gold, two rows share a dialogue."""
    return [
        Example(
            id=f"e{row}",
            answers=("ab", "abc c"),
            question=f"question {row}",
            gold_passages=() if row % 4 == 3 else (f"p{row}",),
            dialogue_id=f"d{row // 2}",
        )
        for row in range(count)
    ]


@pytest.fixture
def table_generator() -> TableGenerator:
    return TableGenerator()
