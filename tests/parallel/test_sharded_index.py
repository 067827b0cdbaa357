"""A sharded index answers as the whole one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from jsarag.errors import IndexStaleError, JsaragError
from jsarag.index.flat import FlatIndex
from jsarag.ops.tile import TILE
from jsarag.parallel.sharded_index import ShardedIndex
from jsarag.parallel.team import WAIT, join

Together = Callable[..., list[Any]]
D, K, M, INV = 12, 40, 200, 3.0


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(rows: int, dtype: torch.dtype) -> FlatIndex:
    """Every third row repeats another, so that scores tie within and across shards."""
    vectors = numbers(1, rows, D, dtype=dtype)
    vectors[2::3] = vectors[torch.arange(2, rows, 3) * 7 % rows]
    return FlatIndex(vectors, generation=4)


def asked(rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Queries, uniforms and exclusions of a process: other sizes on each, none on process 1."""
    count = 5 - rank
    coins = torch.rand(
        (count, M), generator=torch.Generator().manual_seed(20 + rank), dtype=torch.float64
    )
    exclude = None
    if rank != 1:
        exclude = torch.full((count, 3 + rank), -1)
        exclude[0, :3] = torch.tensor([0, TILE, 5])
    return numbers(10 + rank, count, D), coins, exclude


def answers(index: FlatIndex, rank: int) -> dict[str, Tensor]:
    queries, coins, exclude = asked(rank)
    scan = index.scan(queries, K, INV, tile_lse=True, exclude=exclude)
    assert scan.tile_lse is not None
    drawn = index.draw(queries, INV, scan.tile_lse, coins, exclude, generation=scan.generation)
    live = queries.clone().requires_grad_()
    partition = index.log_partition(live, INV, exclude)
    (partition * torch.arange(1, len(live) + 1)).sum().backward()
    assert live.grad is not None
    return {
        "ids": scan.ids,
        "scores": scan.scores,
        "tile_lse": scan.tile_lse,
        "drawn": drawn.ids,
        "logp": drawn.logp,
        "partition": partition.detach(),
        "gradient": live.grad,
        "vectors": index.vectors(scan.ids[:, : 4 + rank].clamp(min=0).flatten()),
        "found": index.search(queries, 1).ids,
    }


# Shards of several tiles, the last one cut; and fewer tiles than processes.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize(("size", "rows"), [(2, 5 * TILE + 77), (4, 5 * TILE + 77), (4, 90)])
def test_it_answers_as_the_whole_index(
    together: Together, size: int, rows: int, dtype: torch.dtype
) -> None:
    index = whole(rows, dtype)

    def work() -> Any:
        with join("cpu") as team:
            sharded = ShardedIndex(index, team)
            assert len(sharded) == rows
            assert len(sharded.embeddings) < rows or rows < TILE
            return answers(sharded, team.rank)

    found = together(work, size)
    drawn = different = 0
    for rank, mine in enumerate(found):
        assert isinstance(mine, dict), mine
        theirs = answers(index, rank)
        for exact in ("ids", "scores", "tile_lse", "vectors", "found"):
            assert torch.equal(mine[exact], theirs[exact]), exact
        for close in ("partition", "gradient"):
            torch.testing.assert_close(mine[close], theirs[close], rtol=1e-5, atol=1e-5)
        same = mine["drawn"] == theirs["drawn"]
        drawn, different = drawn + same.numel(), different + int((~same).sum())
        torch.testing.assert_close(mine["logp"][same], theirs["logp"][same], rtol=1e-6, atol=1e-5)
    # A uniform on a border, to the last bit of a double.
    assert different <= 1, (different, drawn)


def test_process_0_searches_with_the_help_of_those_that_wait(together: Together) -> None:
    index = whole(3 * TILE, torch.float32)

    def work() -> Any:
        with join("cpu") as team:
            sharded = ShardedIndex(index, team, "posterior")
            if team.leads:
                found = answers(sharded, 0)
                team.meet("done")
                return found
            helped = 0
            while (heard := team.meet(WAIT)).name != "done":
                other = ShardedIndex(index, team, "passages")
                assert not other.help(heard.name, heard.words)
                helped += sharded.help(heard.name, heard.words)
            return helped

    found = together(work, 3)
    assert found[1:] == [5, 5]
    for name, tensor in answers(index, 0).items():
        torch.testing.assert_close(found[0][name], tensor, rtol=1e-5, atol=1e-5)


def test_where_all_is_excluded_nothing_is_found(together: Together) -> None:
    index = whole(TILE + 3, torch.float32)

    def work() -> Any:
        with join("cpu") as team:
            sharded = ShardedIndex(index, team)
            queries, coins = numbers(3, 2, D), torch.full((2, 4), 0.5, dtype=torch.float64)
            exclude = torch.stack([torch.arange(len(index)), torch.full((len(index),), -1)])
            scan = sharded.scan(queries, 3, INV, exclude=exclude)
            assert scan.tile_lse is not None
            drawn = sharded.draw(queries, INV, scan.tile_lse, coins, exclude)
            live = queries.requires_grad_()
            partition = sharded.log_partition(live, INV, exclude)
            partition[1].backward()
            assert live.grad is not None
            return scan.ids[0], drawn.ids[0], drawn.logp[0], partition[0].detach(), live.grad

    for ids, drawn, logp, partition, gradient in together(work, 2):
        assert set(ids.tolist()) == set(drawn.tolist()) == {-1}
        assert set(logp.tolist()) == {partition.item()} == {-torch.inf}
        assert gradient[0].tolist() == [0.0] * D
        assert gradient.isfinite().all()


def test_generations_never_mix_and_no_part_is_saved_as_the_whole(
    together: Together, tmp_path: Any
) -> None:
    index = whole(TILE, torch.float32)

    def work() -> Any:
        with join("cpu") as team:
            sharded = ShardedIndex(index, team)
            queries, coins, _ = asked(0)
            with pytest.raises(IndexStaleError):
                sharded.draw(queries, INV, numbers(2, 5, 1), coins, generation=3)
            with pytest.raises(JsaragError, match="holds a part"):
                sharded.save(tmp_path / "index", None)  # type: ignore[arg-type]
            assert sharded.generation == 4

    assert together(work, 2) == [None, None]
