"""Every op once on small inputs against float64: what runs under compute-sanitizer.

    python -m jsarag_bench.small_cases [--device cuda] [--seed 0] [OP ...]

Shapes are small because a sanitizer slows kernels a hundredfold, and odd because faults sit at
edges; large enough that each kernel's main loop turns more than once, and one batch is large enough
for Hopper's. Ends with 1 where a result is off by more than its budget.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jsarag import ops
from jsarag.ops.reference.passage_logp import passage_logp as reference_passage_logp
from jsarag.ops.reference.scan import scan as reference_scan

_DTYPES = ("float32", "bfloat16", "float16", "int8")


class Difference(NamedTuple):
    """How far a result is from float64, and how far it may be."""

    case: str
    error: float
    budget: float


def scan(device: str, generator: torch.Generator) -> Iterator[Difference]:
    """All dtypes and two batches; draws and the log-partition with its gradient on the way."""
    for batch, rows, width, k in ((5, 1100, 72, 7), (130, 700, 24, 3)):
        queries = torch.randn(batch, width, generator=generator)
        exact = torch.randn(rows, width, generator=generator)
        exclude = torch.randint(-1, rows, (batch, 2), generator=generator)
        uniforms = torch.rand(batch, 4, generator=generator, dtype=torch.float64)
        for dtype in _DTYPES:
            name = f"scan {dtype} B={batch}"
            scales = None
            if dtype == "int8":
                passages, scales = ops.quantise_rows(exact)
            else:
                passages = exact.to(getattr(torch, dtype))
            rounded = (
                queries.to(passages.dtype).float() if dtype in ("bfloat16", "float16") else queries
            )
            truth = reference_scan(
                rounded.double(),
                passages.double(),
                k,
                0.3,
                None if scales is None else scales.double(),
                exclude,
                True,
            )
            given = [tensor.to(device) for tensor in (rounded, passages, exclude, uniforms)]
            on_queries, on_passages, on_exclude, on_uniforms = given
            on_scales = None if scales is None else scales.to(device)
            found = ops.scan(
                on_queries,
                on_passages,
                k,
                0.3,
                scales=on_scales,
                exclude=on_exclude,
                tile_lse=True,
            )
            assert found.tile_lse is not None
            assert truth.tile_lse is not None
            room = 3e-5 * float(queries.norm(dim=1).max() * exact.norm(dim=1).max())
            room = 20 * room if dtype == "int8" else room
            yield Difference(f"{name} scores", _distance(found.scores, truth.scores), room)
            yield Difference(f"{name} tile_lse", _distance(found.tile_lse, truth.tile_lse), room)
            drawn = ops.draw(
                on_queries,
                on_passages,
                0.3,
                found.tile_lse,
                on_uniforms,
                scales=on_scales,
                exclude=on_exclude,
            )
            logits = 0.3 * rounded.double() @ passages.double().T
            logits = logits * (1.0 if scales is None else scales.double())
            hidden = torch.zeros_like(logits, dtype=torch.bool)
            for column in exclude.T:
                inside = column >= 0
                hidden[inside.nonzero()[:, 0], column[inside]] = True
            logp = logits.masked_fill(hidden, -torch.inf).log_softmax(1)
            want = logp.gather(1, drawn.ids.cpu())
            yield Difference(f"{name} draw", _distance(drawn.logp, want), room)
            leaf = on_queries.clone().requires_grad_()
            total = ops.log_partition(leaf, on_passages, 0.3, scales=on_scales)
            (gradient,) = torch.autograd.grad(total.sum(), leaf)
            yield Difference(f"{name} log_partition", _distance(total, logits.logsumexp(1)), room)
            values = passages.double() * (1.0 if scales is None else scales.double()[:, None])
            wanted = 0.3 * logits.softmax(1) @ values
            # Weights are rounded to the passages' precision on tensor cores.
            yield Difference(f"{name} its gradient", _distance(gradient, wanted), 2e-2)
        if batch == 5:
            yield from _certified(device, queries, exact)


def _certified(device: str, queries: Tensor, exact: Tensor) -> Iterator[Difference]:
    values, scales = ops.quantise_rows(exact)
    plain = ops.scan(queries.to(device), exact.to(device), 9, 1.0)
    sure = ops.scan(
        queries.to(device),
        values.to(device),
        9,
        1.0,
        scales=scales.to(device),
        certify=True,
        exact_passages=exact.to(device),
    )
    off = float((plain.ids != sure.ids).sum() + (plain.scores != sure.scores).sum())
    yield Difference("scan int8 certified", off, 0.0)


def mis_chain(device: str, generator: torch.Generator) -> Iterator[Difference]:
    """With and without a start, against the reference on the CPU."""
    weight = torch.randn(37, 70, generator=generator)
    start = torch.randn(37, generator=generator)
    uniforms = torch.rand(37, 70, generator=generator, dtype=torch.float64)
    for held in (None, start):
        want = ops.mis_chain(weight, held, uniforms)
        found = ops.mis_chain(
            weight.to(device), None if held is None else held.to(device), uniforms.to(device)
        )
        off = float((found.state.cpu() != want.state).sum())
        yield Difference(f"mis_chain start={held is not None} states", off, 0.0)
        error = _distance(found.recycled, want.recycled)
        yield Difference(f"mis_chain start={held is not None} recycled", error, 1e-5)


def passage_logp(device: str, generator: torch.Generator) -> Iterator[Difference]:
    """Values and gradients; off and on the alignment that Hopper's main loop wants."""
    for dtype in (torch.float32, torch.bfloat16):
        for tokens, width, words in ((150, 72, 700), (70, 33, 131)):
            name = f"passage_logp {dtype} {tokens}x{width}x{words}"
            hidden = torch.randn(tokens, width, generator=generator).to(dtype)
            weight = (torch.randn(words, width, generator=generator) / width**0.5).to(dtype)
            bias = torch.randn(words, generator=generator).to(dtype)
            targets = torch.randint(0, words, (tokens,), generator=generator)
            targets[::7] = -100
            bounds = torch.tensor([0, 3, 3, tokens // 2, tokens])
            leaves = [t.to(device).requires_grad_() for t in (hidden, weight, bias)]
            exact = [t.double().requires_grad_() for t in (hidden, weight, bias)]
            found = ops.passage_logp(
                leaves[0],
                leaves[1],
                targets.to(device),
                bounds.to(device),
                bias=leaves[2],
                softcap=9.0,
                logit_scale=1.3,
            )
            want = reference_passage_logp(
                exact[0], exact[1], targets, bounds, bias=exact[2], softcap=9.0, logit_scale=1.3
            )
            yield Difference(f"{name} logp", _distance(found.logp, want.logp), 1e-3)
            ours = torch.autograd.grad(found.logp.sum(), leaves)
            truth = torch.autograd.grad(want.logp.sum(), exact)
            room = 3e-2 if dtype == torch.bfloat16 else 1e-4
            for part, one, other in zip(("hidden", "weight", "bias"), ours, truth, strict=True):
                largest = float(other.abs().max())
                yield Difference(f"{name} on {part}", _distance(one, other), room * (1 + largest))


def _distance(found: Tensor, want: Tensor) -> float:
    difference = found.detach().cpu().double() - want.detach().double()
    return float(torch.where(want.isfinite(), difference, 0.0).abs().max())


_OPS: dict[str, Callable[[str, torch.Generator], Iterator[Difference]]] = {
    "scan": scan,
    "mis_chain": mis_chain,
    "passage_logp": passage_logp,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jsarag_bench.small_cases")
    parser.add_argument("ops", nargs="*", choices=[*_OPS, []], help="default: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    wrong = count = 0
    for name in chosen.ops or _OPS:
        generator = torch.Generator().manual_seed(chosen.seed)
        for found in _OPS[name](chosen.device, generator):
            count += 1
            # NaN is wrong, too.
            if not found.error <= found.budget:
                wrong += 1
                print(f"WRONG {found.case}: off by {found.error:.3g}, allowed {found.budget:.3g}")
    print(f"{count} results on {chosen.device}, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
