"""The rivals: the best public ways to do what each op does, imported where they are installed.

A rival gets the same inputs and threads, takes its turns between ours, and is made ready (index
built, compiled) before anything is timed. Libraries with an OpenMP runtime or thread pool of their
own run in a process of their own: two runtimes in one process oversubscribe the cores, and idle
threads that still spin are charged to whoever comes next. What is not there is skipped, and said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from jsarag_bench.cases import Case
from jsarag_bench.kernels.draw import DrawInputs
from jsarag_bench.kernels.inputs import INV_TEMPERATURE, ScanInputs, forget_passages
from jsarag_bench.kernels.mis_chain import MisChainInputs
from jsarag_bench.kernels.passage_logp import LogpInputs, eager_logp, with_gradients

Call = Callable[[], Any]

_PACKAGES = ("faiss-cpu", "usearch", "liger-kernel", "cut-cross-entropy")


@dataclass(frozen=True, slots=True)
class Peer:
    """A rival of one op.

    Attributes:
        build: (case, inputs, threads) -> one call, everything made ready.
        dtype: what it computes in; None: in the case's.
        library: must be importable.
        devices: where it runs.
        own_process: it brings threads of its own.
        full_only: too slow to get ready for a quick run.
    """

    name: str
    op: str
    build: Callable[[Case, Any, int], Call]
    dtype: str | None = None
    library: str = "torch"
    devices: Sequence[str] = ("cpu", "cuda")
    own_process: bool = False
    full_only: bool = False

    def computes_in(self, case: Case) -> str:
        """The dtype it computes in."""
        return self.dtype or case.dtype

    def refusal(self, case: Case, *, full: bool) -> str:
        """Why it does not run on this case, "" if it does."""
        if self.name in case.skip_peers:
            return case.skip_peers[self.name]
        if self.full_only and not full:
            return "only with --full: it takes long to get ready"
        if find_spec(self.library) is None:
            return f"{self.library} is not installed"
        if self.library == "faiss" and case.device == "cuda" and not _faiss_has_gpu():
            return "the installed faiss has no GPU support"
        return ""


def peers_of(case: Case) -> list[Peer]:
    """The rivals of a case's op on its device, able to run or not.

    Only those that do the same job: a case whose answer is that of f32 (certified int8, too) has
    no rivals that round to bf16 or f16.
    """
    exact = case.dtype == _F32 or bool(case.options.get("certify"))
    return [
        peer
        for peer in _PEERS
        if peer.op == case.op
        and case.device in peer.devices
        and (not exact or peer.computes_in(case) == _F32 or peer.dtype is None)
    ]


def rival_versions() -> dict[str, str]:
    """Versions of the rivals' packages that are installed."""
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def peer_named(op: str, name: str) -> Peer:
    """One of them, by name."""
    return next(peer for peer in _PEERS if (peer.op, peer.name) == (op, name))


def _torch_scan(case: Case, inputs: ScanInputs, threads: int, *, dtype: str) -> Call:
    passages = inputs.passages.as_dtype(dtype)
    queries = inputs.queries.to(passages.dtype)
    kept = min(case.k or 1, len(passages))
    tile_lse = bool(case.options.get("tile_lse"))

    def call() -> Any:
        scores = queries @ passages.T
        mass = (scores.float() * INV_TEMPERATURE).logsumexp(dim=1) if tile_lse else None
        return scores.topk(kept, dim=1), mass

    return call


def _faiss(case: Case, inputs: ScanInputs, threads: int, *, bfloat16: bool) -> Call:
    faiss = import_module("faiss")
    faiss.omp_set_num_threads(threads)
    width = case.shape["D"]
    if bfloat16:
        kind = faiss.ScalarQuantizer.QT_bf16
        index = faiss.IndexScalarQuantizer(width, kind, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexFlatIP(width)
    # Trained (for this quantiser: marked as trained) on a few rows, filled with all.
    index.train(inputs.passages.exact[:1000].numpy())
    index.add(inputs.passages.exact.numpy())
    forget_passages()
    queries = inputs.queries.numpy()
    return partial(index.search, queries, case.k)


def _faiss_gpu(case: Case, inputs: ScanInputs, threads: int) -> Call:
    faiss = import_module("faiss")
    import_module("faiss.contrib.torch_utils")
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = case.dtype != "float32"
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), case.shape["D"], config)
    exact = inputs.passages.exact
    for first in range(0, len(exact), 1 << 18):
        index.add(exact[first : first + (1 << 18)])
    return partial(index.search, inputs.queries, case.k)


def _faiss_has_gpu() -> bool:
    return hasattr(import_module("faiss"), "StandardGpuResources")


def _usearch(case: Case, inputs: ScanInputs, threads: int) -> Call:
    usearch = import_module("usearch.index")
    passages = inputs.passages.as_dtype("float16").numpy()
    queries = inputs.queries.half().numpy()
    forget_passages()
    return partial(
        usearch.search,
        passages,
        queries,
        case.k,
        usearch.MetricKind.IP,
        exact=True,
        threads=threads,
    )


def _torch_draw(case: Case, inputs: DrawInputs, threads: int, *, dtype: str) -> Call:
    """The same draws (inversion of the same uniforms) with the scores in memory."""
    passages = inputs.passages.as_dtype(dtype)
    queries = inputs.queries.to(passages.dtype)
    kept = (case.k or 1) if case.options.get("after_scan") else 0

    def call() -> Any:
        scores = queries @ passages.T
        logp = (scores.float() * INV_TEMPERATURE).log_softmax(dim=1)
        cumulative = logp.double().exp().cumsum(dim=1)
        ids = torch.searchsorted(cumulative, inputs.uniforms).clamp(max=logp.shape[1] - 1)
        return ids, logp.gather(1, ids), scores.topk(kept, dim=1) if kept else None

    return call


def _torch_multinomial(case: Case, inputs: DrawInputs, threads: int) -> Call:
    passages = inputs.passages.as_dtype("float32")
    kept = (case.k or 1) if case.options.get("after_scan") else 0
    draws = case.shape["M"]

    def call() -> Any:
        scores = inputs.queries @ passages.T
        p = (scores * INV_TEMPERATURE).softmax(dim=1)
        ids = p.multinomial(draws, replacement=True)
        return ids, p.gather(1, ids).log(), scores.topk(kept, dim=1) if kept else None

    return call


def _torch_log_partition(case: Case, inputs: ScanInputs, threads: int, *, dtype: str) -> Call:
    passages = inputs.passages.as_dtype(dtype)
    backward = bool(case.options.get("backward"))
    queries = inputs.queries.clone().requires_grad_(backward)

    def call() -> Any:
        scores = (queries.to(passages.dtype) @ passages.T).float() * INV_TEMPERATURE
        value = scores.logsumexp(dim=1)
        return torch.autograd.grad(value.sum(), queries) if backward else value

    return call


def _torch_chain(case: Case, inputs: MisChainInputs, threads: int) -> Call:
    """One step of all chains at a time, in f32, without the rules for weights not finite."""
    log_weight, start, uniforms = inputs.log_weight, inputs.start_log_weight, inputs.uniforms
    batch, steps = log_weight.shape
    rows = torch.arange(batch, device=log_weight.device)

    def call() -> Any:
        log_uniforms = uniforms.log().float()
        held = torch.full((batch,), steps, device=log_weight.device)
        held_weight = start
        visits = log_weight.new_zeros(batch, steps + 1)
        recycled = log_weight.new_zeros(batch, steps + 1)
        states, moves = [], []
        for step in range(steps):
            log_ratio = log_weight[:, step] - held_weight
            move = log_uniforms[:, step] < log_ratio
            chance = log_ratio.clamp(max=0.0).exp()
            recycled[:, step] += chance
            recycled[rows, held] += 1.0 - chance
            held = torch.where(move, step, held)
            held_weight = torch.where(move, log_weight[:, step], held_weight)
            visits[rows, held] += 1.0
            states.append(held)
            moves.append(move)
        return torch.stack(states, 1), torch.stack(moves, 1), visits, recycled

    return call


def _eager(case: Case, inputs: LogpInputs, threads: int, *, upcast: bool) -> Call:
    return lambda: with_gradients(inputs, eager_logp(inputs, upcast=upcast))


def _compiled(case: Case, inputs: LogpInputs, threads: int) -> Call:
    # The wanted value is a closure of nothing but tensors, so that the compiler sees all of it.
    segments = inputs.segments
    count = len(inputs.gradient)

    def logp(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(hidden, weight)
        token = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return torch.zeros(count, device=hidden.device).index_add(0, segments, token.float())

    compiled = torch.compile(logp)
    return lambda: with_gradients(inputs, compiled(inputs.hidden, inputs.weight, inputs.targets))


def _liger(case: Case, inputs: LogpInputs, threads: int) -> Call:
    module = import_module("liger_kernel.transformers.fused_linear_cross_entropy")
    # It takes gradients inside forward, and those only of a sum or mean over all tokens.
    loss = module.LigerFusedLinearCrossEntropyLoss(reduction="sum" if inputs.backward else "none")

    def call() -> Any:
        value = loss(inputs.weight, inputs.hidden, inputs.targets)
        if not inputs.backward:
            return value
        return torch.autograd.grad(value, [inputs.hidden, inputs.weight])

    return call


def _cut_cross_entropy(case: Case, inputs: LogpInputs, threads: int) -> Call:
    module = import_module("cut_cross_entropy")

    def call() -> Any:
        token = module.linear_cross_entropy(
            inputs.hidden, inputs.weight, inputs.targets, reduction="none"
        )
        sums = torch.zeros(len(inputs.gradient), device=token.device)
        return with_gradients(inputs, sums.index_add(0, inputs.segments, -token.float()))

    return call


_CPU, _CUDA = ("cpu",), ("cuda",)
_F32, _BF16 = "float32", "bfloat16"
_PEERS = (
    Peer("torch f32", "scan", partial(_torch_scan, dtype=_F32), _F32),
    Peer("torch bf16", "scan", partial(_torch_scan, dtype=_BF16), _BF16),
    Peer("faiss flat f32", "scan", partial(_faiss, bfloat16=False), _F32, "faiss", _CPU, True),
    Peer("faiss bf16", "scan", partial(_faiss, bfloat16=True), _BF16, "faiss", _CPU, True),
    Peer("usearch exact f16", "scan", _usearch, "float16", "usearch", _CPU, True),
    Peer("faiss gpu flat", "scan", _faiss_gpu, None, "faiss", _CUDA),
    Peer("torch f32", "draw", partial(_torch_draw, dtype=_F32), _F32),
    Peer("torch bf16", "draw", partial(_torch_draw, dtype=_BF16), _BF16),
    Peer("torch multinomial f32", "draw", _torch_multinomial, _F32, devices=_CPU),
    Peer("torch f32", "log_partition", partial(_torch_log_partition, dtype=_F32), _F32),
    Peer("torch bf16", "log_partition", partial(_torch_log_partition, dtype=_BF16), _BF16),
    Peer("torch loop", "mis_chain", _torch_chain, _F32),
    Peer("torch eager", "passage_logp", partial(_eager, upcast=False)),
    Peer("torch eager, f32 logits", "passage_logp", partial(_eager, upcast=True)),
    # Its own process: where no compiler is installed, the process ends and the row goes on.
    Peer("torch.compile", "passage_logp", _compiled, own_process=True, full_only=True),
    Peer("liger-kernel", "passage_logp", _liger, None, "liger_kernel", _CUDA),
    Peer("cut-cross-entropy", "passage_logp", _cut_cross_entropy, None, "cut_cross_entropy", _CUDA),
)
