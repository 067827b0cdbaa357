"""Random shapes, layouts, dtypes and odd numbers into every op, against float64.

One seed is one call; ``pytest "tests/kernels/test_fuzz.py::test_scan[cpu-17]"`` repeats it.
Layouts lie inside larger tensors filled with NaN (or valid but wrong integers), so that reading
beside the numbers shows in the result as well as under ``scripts/sanitize``.
"""

from __future__ import annotations

import math
import os
import random
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from jsarag import ops
from jsarag.backends import native
from jsarag.errors import DtypeError, JsaragError, ShapeError
from jsarag.ops.reference.mis_chain import mis_chain as reference_mis_chain
from jsarag.ops.reference.passage_logp import passage_logp as reference_passage_logp
from jsarag.ops.tile import tile_count

NAN, INF = math.nan, math.inf
EPS32 = torch.finfo(torch.float32).eps
# Other random calls than everybody's: scripts/gpu_check makes new ones each time.
OFFSET = int(os.environ.get("JSARAG_FUZZ_OFFSET", "0"))
# By the passages' dtype: kernels may round queries to it.
QUERY_ROUNDING = {torch.bfloat16: 2.0**-8}
SEEDS = [*range(60), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(60, 1500))]

pytestmark = pytest.mark.skipif(bool(native.MISSING), reason=native.MISSING or "compiled")


@pytest.fixture(autouse=True, params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def backend(request, chosen_backend, monkeypatch):
    if request.param == "cuda":
        monkeypatch.setitem(QUERY_ROUNDING, torch.float16, 2.0**-11)
    return chosen_backend(request.param)


class Fuzz:
    """Everything random about one call, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed + OFFSET)
        self.generator = torch.Generator().manual_seed(seed + OFFSET)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def size(self, high: int, zero: float = 0.06) -> int:
        """0, 1, next to a power of two, or anything; small more often than large."""
        if self.chance(zero):
            return 0
        kind = self.random.random()
        if kind < 0.1:
            return 1
        if kind < 0.4:
            power = 1 << self.random.randint(0, max(high.bit_length() - 1, 0))
            return min(max(power + self.random.randint(-1, 1), 1), high)
        return max(1, min(int(math.exp(self.random.uniform(0.0, math.log(high + 1)))), high))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)

    def spoil(self, tensor: Tensor, values: tuple[float, ...] = (NAN, INF, -INF)) -> Tensor:
        """A few entries replaced, in place."""
        if tensor.numel():
            for _ in range(self.random.randint(1, 4)):
                at = self.random.randrange(tensor.numel())
                tensor.view(-1)[at] = self.random.choice(values)
        return tensor

    def layout(self, tensor: Tensor, filling: float = NAN) -> Tensor:
        """The same numbers, lying in memory in another way."""
        if not tensor.dtype.is_floating_point:
            filling = 0 if math.isnan(filling) else filling
        kind = self.random.choice(("dense", "offset", "padded", "steps", "transposed"))
        shape = list(tensor.shape)
        if kind == "dense":
            return tensor
        if kind == "transposed":
            turned = torch.full([size + 1 for size in reversed(shape)], filling, dtype=tensor.dtype)
            view = turned.permute(*reversed(range(len(shape))))
            view = view[tuple(slice(1, size + 1) for size in shape)]
        elif kind == "offset":
            flat = torch.full((tensor.numel() + 3,), filling, dtype=tensor.dtype)
            view = flat[self.random.randint(1, 3) :][: tensor.numel()].view(shape)
        elif kind == "padded":
            wide = torch.full([*shape[:-1], shape[-1] + 5], filling, dtype=tensor.dtype)
            view = wide[..., 2 : shape[-1] + 2]
        else:
            wide = torch.full([2 * size + 1 for size in shape], filling, dtype=tensor.dtype)
            view = wide[tuple(slice(1, None, 2) for _ in shape)]
        return view.copy_(tensor)


class Search(NamedTuple):
    """Arguments of scan, draw and log_partition, and what they mean in float64."""

    queries: Tensor
    passages: Tensor
    inv_temperature: float
    scales: Tensor | None
    exclude: Tensor | None
    threads: int
    scores: Tensor  # f64 [B, N]
    excluded: Tensor  # bool [B, N]
    error: Tensor  # f64 [B, N], how far off a score may be
    rows: Tensor  # f64 [N, D], passages as they are meant

    @property
    def options(self) -> dict[str, object]:
        return {"scales": self.scales, "exclude": self.exclude, "threads": self.threads}

    @property
    def scaled(self) -> Tensor:
        """f64 [B, N]: score times inverse temperature, -inf where excluded."""
        return (self.scores * self.inv_temperature).masked_fill(self.excluded, -INF)

    @property
    def slack(self) -> Tensor:
        """f64 [B]: how far off a scaled score of the query may be; 0 without finite ones."""
        error = self.error.nan_to_num(0.0, 0.0, 0.0).masked_fill(~self.scores.isfinite(), 0.0)
        padded = torch.nn.functional.pad(error, (0, 1))
        return padded.amax(1) * self.inv_temperature


def make_search(fuzz: Fuzz, spoiled: bool = True) -> Search:
    kind = fuzz.random.choice((torch.float32, torch.bfloat16, torch.float16, torch.int8))
    batch = fuzz.size(70)
    count = fuzz.random.randint(480, 1600) if fuzz.chance(0.4) else fuzz.size(1300)
    width = fuzz.size(110)
    queries = fuzz.normal(batch, width) * fuzz.random.choice((0.1, 1.0, 5.0))
    rows = fuzz.normal(count, width)
    if fuzz.chance(0.3) and count > 1:  # equal passages: ties
        rows = rows[fuzz.integers(0, max(count // 3, 1), count)]
    odd = spoiled and fuzz.chance(0.3)
    if odd and kind != torch.int8:
        fuzz.spoil(rows)
    if odd and fuzz.chance(0.5):
        # A query of an int8 scan becomes integers: one that is not finite has NaN scores only.
        fuzz.spoil(queries, (NAN,) if kind == torch.int8 else (NAN, INF, -INF))
    scales = None
    if kind == torch.int8:
        rounded = ops.quantise_rows(rows)
        passages, scales = rounded.values, rounded.scales
        if odd:
            fuzz.spoil(scales, (NAN, 0.0))
        scales = fuzz.layout(scales)
    else:
        passages = rows.to(kind)
    if fuzz.chance(0.08) and count:
        passages = passages[:1].expand(count, width)
    else:
        passages = fuzz.layout(passages)
    if fuzz.chance(0.3):
        queries = queries.to(fuzz.random.choice((torch.bfloat16, torch.float16)))
    queries = fuzz.layout(queries)
    exclude = None
    if fuzz.chance(0.6):
        exclude = fuzz.integers(-3, max(count, 1) + 3, batch, fuzz.size(20))
        if fuzz.chance(0.1) and count:  # nothing is left for anybody
            everything = torch.arange(count).expand(batch, count)
            exclude = torch.cat([everything.flip(1), exclude], 1)
        exclude = fuzz.spoil(exclude, (-(2**63), 2**63 - 1)) if fuzz.chance(0.2) else exclude
        exclude = fuzz.layout(exclude)
    inv_temperature = fuzz.random.choice((1e-3, 0.3, 1.0, 4.0))
    threads = fuzz.random.randint(1, 4)
    return Search(
        queries,
        passages,
        inv_temperature,
        scales,
        exclude,
        threads,
        *truth(queries, passages, scales, exclude),
    )


def truth(
    queries: Tensor, passages: Tensor, scales: Tensor | None, exclude: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, exclusions, error bounds and rows in float64."""
    left, rows = queries.double(), passages.double()
    factor = torch.ones(len(rows)) if scales is None else scales
    scores = torch.empty((len(left), len(rows)), dtype=torch.float64)
    sizes = torch.empty_like(scores)
    # Not a matrix product: that of a library may turn an infinite entry into NaN elsewhere.
    for number, query in enumerate(left):
        products = query * rows
        scores[number] = products.sum(1) * factor.double()
        sizes[number] = products.abs().sum(1) * factor.abs().double()
    rows = rows * factor.double().unsqueeze(1)
    width, count = rows.shape[1], rows.shape[0]
    # One rounding per term, of pairs added up in any order.
    error = sizes * (width + 8) * 2 * EPS32
    error += sizes * QUERY_ROUNDING.get(passages.dtype, 0.0)
    if passages.dtype == torch.int8 and width:
        limit = min(32767, 2**31 // (128 * width) - 1)
        step = left.abs().amax(1, keepdim=True) / limit
        error += step * rows.abs().sum(1)
    excluded = torch.zeros(scores.shape, dtype=torch.bool)
    if exclude is not None:
        for row, ids in enumerate(exclude.tolist()):
            for passage in ids:
                if 0 <= passage < count:
                    excluded[row, passage] = True
    return scores, excluded, error, rows


def close(got: Tensor, want: Tensor, error: Tensor | float) -> Tensor:
    """bool: within ``error``; where ``want`` is not finite, the same kind of number."""
    want = want.double()
    got = got.double()
    same = (got == want) | (got.isnan() & want.isnan())
    return torch.where(want.isfinite(), (got - want).abs() <= error, same)


def lse(values: Tensor) -> Tensor:
    """Log-sum-exp in float64 of the last dimension: -inf of nothing, NaN of a NaN."""
    if values.shape[-1] == 0:
        return values.new_full(values.shape[:-1], -INF)
    return values.logsumexp(-1)


def tiles_of(scaled: Tensor) -> Tensor:
    """f64 [B, ceil(N / TILE)]."""
    pieces = [lse(piece) for piece in scaled.split(ops.TILE, 1)] if scaled.shape[1] else []
    return torch.stack(pieces, 1) if pieces else scaled.new_empty((scaled.shape[0], 0))


@pytest.mark.parametrize("seed", SEEDS)
def test_scan(seed):
    fuzz = Fuzz(seed)
    s = make_search(fuzz)
    batch, count = s.scores.shape
    given = (s.queries, s.passages)
    everything = ops.scan(*given, count + 3, s.inv_temperature, tile_lse=True, **s.options)
    ids, scores, mass = everything
    assert ids.shape == scores.shape == (batch, count + 3)
    assert mass is not None
    assert mass.shape == (batch, tile_count(count))

    ranked = s.scores.masked_fill(s.excluded | s.scores.isnan(), -INF)
    for row in range(batch):
        found = ids[row][ids[row] >= 0]
        assert (ids[row][len(found) :] == -1).all()
        assert (scores[row][len(found) :] == -INF).all()
        assert sorted(found.tolist()) == (ranked[row] > -INF).nonzero().flatten().tolist()
        mine = scores[row][: len(found)]
        assert close(mine, ranked[row][found], s.error[row][found]).all()
        above, equal = mine[:-1] > mine[1:], mine[:-1] == mine[1:]
        assert (above | (equal & (found[:-1] < found[1:]))).all()
    slack = s.slack.unsqueeze(1) + 4 * EPS32 * tiles_of(s.scaled).nan_to_num(0, 0, 0).abs() + 1e-6
    assert close(mass, tiles_of(s.scaled), slack).all()

    k = min(fuzz.size(2048, zero=0.0), count + 3)
    fewer = ops.scan(*given, k, s.inv_temperature, **s.options)
    assert fewer.tile_lse is None
    assert torch.equal(fewer.ids, ids[:, :k])
    assert torch.equal(fewer.scores, scores[:, :k])
    if batch:
        row = fuzz.random.randrange(batch)
        exclude = None if s.exclude is None else s.exclude[row : row + 1]
        alone = ops.scan(
            s.queries[row : row + 1],
            s.passages,
            k,
            s.inv_temperature,
            scales=s.scales,
            exclude=exclude,
            tile_lse=True,
        )
        assert torch.equal(alone.ids[0], ids[row, :k])
        assert torch.equal(alone.scores[0], scores[row, :k])
        assert alone.tile_lse is not None
        assert torch.equal(alone.tile_lse[0].nan_to_num(7.0), mass[row].nan_to_num(7.0))


@pytest.mark.parametrize("seed", SEEDS)
def test_certified_scan(seed):
    fuzz = Fuzz(seed)
    batch, count, width = fuzz.size(20), fuzz.size(1200), fuzz.size(100)
    exact, queries = fuzz.normal(count, width), fuzz.normal(batch, width)
    if fuzz.chance(0.5) and count:  # near ties: what certifying is for
        exact = exact[:1] + 1e-3 * fuzz.random.random() * exact
    if fuzz.chance(0.3):
        fuzz.spoil(exact)
    if fuzz.chance(0.2):
        fuzz.spoil(queries)
    scales = None
    if fuzz.chance(0.5):
        passages, scales = ops.quantise_rows(exact)
    else:
        passages = exact.to(torch.bfloat16)
    exclude = fuzz.integers(-1, max(count, 1), batch, 5) if fuzz.chance(0.5) else None
    k, threads = fuzz.size(300, zero=0.0), fuzz.random.randint(1, 4)
    got = ops.scan(
        fuzz.layout(queries),
        fuzz.layout(passages),
        k,
        1.0,
        scales=scales,
        exclude=exclude,
        certify=True,
        exact_passages=fuzz.layout(exact),
        threads=threads,
    )
    want = ops.scan(queries, exact, k, 1.0, exclude=exclude)
    assert torch.equal(got.ids, want.ids)
    assert torch.equal(got.scores, want.scores)


@pytest.mark.parametrize("seed", SEEDS)
def test_draw(seed):
    fuzz = Fuzz(seed)
    s = make_search(fuzz)
    batch, count = s.scores.shape
    mass = ops.scan(
        s.queries, s.passages, 1, s.inv_temperature, tile_lse=True, **s.options
    ).tile_lse
    assert mass is not None
    uniforms = fuzz.uniform(batch, fuzz.size(60))
    fuzz.spoil(uniforms, (0.0, 1.0 - 2.0**-53, 2.0**-60))
    if fuzz.chance(0.2):
        uniforms = uniforms.float().clamp(max=1 - EPS32)
    got = ops.draw(
        s.queries,
        s.passages,
        s.inv_temperature,
        fuzz.layout(mass),
        fuzz.layout(uniforms),
        **s.options,
    )
    assert got.ids.shape == got.logp.shape == uniforms.shape
    total = lse(s.scaled)
    logp = s.scaled - total.unsqueeze(1)
    for row in range(batch):
        ids, mine = got.ids[row], got.logp[row]
        if total[row] == -INF or not total[row] < INF:
            assert (ids == -1).all()
            assert close(mine, torch.full(mine.shape, -INF if total[row] == -INF else NAN), 0).all()
            continue
        assert ((ids >= 0) & (ids < count)).all()
        assert not s.excluded[row][ids].any()
        slack = 2 * s.slack[row].item() + 1e-5
        assert close(mine, logp[row][ids], slack + 4 * EPS32 * total[row].abs()).all()
        # The draw is the inverse of the cumulative mass, passages in their order.
        upper = logp[row].exp().cumsum(0)
        lower, allowed = upper - logp[row].exp(), math.expm1(slack)
        assert (uniforms[row] >= lower[ids] - allowed).all()
        assert (uniforms[row] <= upper[ids] + allowed).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_draw_survives_any_numbers(seed):
    fuzz = Fuzz(seed)
    s = make_search(fuzz)
    batch, count = s.scores.shape
    mass = fuzz.spoil(fuzz.normal(batch, tile_count(count)) * 100)
    uniforms = fuzz.spoil(fuzz.uniform(batch, fuzz.size(40)), (NAN, INF, -INF, -1.0, 1.0, 2.0))
    got = ops.draw(s.queries, s.passages, s.inv_temperature, mass, uniforms, **s.options)
    assert ((got.ids >= -1) & (got.ids < max(count, 1))).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_log_partition(seed):
    fuzz = Fuzz(seed)
    s = make_search(fuzz)
    queries = s.queries.detach().requires_grad_()
    got = ops.log_partition(queries, s.passages, s.inv_temperature, **s.options)
    want = lse(s.scaled)
    slack = s.slack + 4 * EPS32 * want.nan_to_num(0, 0, 0).abs() + 1e-6
    assert close(got, want, slack).all()

    weights = fuzz.normal(*want.shape)
    (grad,) = torch.autograd.grad(got, queries, weights)
    assert grad.shape == queries.shape
    assert grad.dtype == queries.dtype
    dead = want == -INF
    assert (grad[dead] == 0).all() or not s.rows.isfinite().all()
    if not s.rows.isfinite().all():
        return
    rows = want.isfinite()
    p = (s.scaled - want.unsqueeze(1)).exp()[rows]
    factor = (weights.double() * s.inv_temperature)[rows].unsqueeze(1)
    error = (p @ s.rows.abs()) * factor.abs() * (torch.expm1(2 * slack[rows]).unsqueeze(1) + 3e-6)
    error += torch.finfo(queries.dtype).eps * (factor * (p @ s.rows)).abs()
    error += torch.finfo(queries.dtype).smallest_normal
    assert close(grad[rows], factor * (p @ s.rows), error).all()
    assert grad[~rows & ~dead].isnan().all()


@pytest.mark.parametrize("seed", SEEDS)
def test_mis_chain(seed):
    fuzz = Fuzz(seed)
    batch, steps = fuzz.size(200), fuzz.size(130)
    weights, start = fuzz.normal(batch, steps) * 3, fuzz.normal(batch) * 3
    uniforms = fuzz.uniform(batch, steps)
    if fuzz.chance(0.5):
        fuzz.spoil(weights, (NAN, INF, -INF, 0.0, -1e38, 1e38))
        fuzz.spoil(start, (NAN, INF, -INF))
        fuzz.spoil(uniforms, (0.0, 1.0, NAN, -0.5, 5e-324))
    if fuzz.chance(0.3):
        uniforms = uniforms.float()
    given = (
        fuzz.layout(weights),
        fuzz.layout(start) if fuzz.chance(0.5) else None,
        fuzz.layout(uniforms),
    )
    got, want = ops.mis_chain(*given), reference_mis_chain(*given)
    for name in want._fields:
        assert torch.equal(getattr(got, name), getattr(want, name)), name


@pytest.mark.parametrize("seed", SEEDS)
def test_passage_logp(seed):
    fuzz = Fuzz(seed)
    tokens, width = fuzz.size(130), fuzz.size(120, zero=0.0)
    vocabulary, sequences = fuzz.size(1100, zero=0.0), fuzz.size(12)
    dtype = fuzz.random.choice((torch.float32, torch.bfloat16))
    if sequences == 0:
        tokens = 0
    hidden, bias = fuzz.normal(tokens, width), fuzz.normal(vocabulary)
    weight = fuzz.normal(vocabulary, width) / width**0.5 * 2
    targets = fuzz.integers(0, vocabulary, tokens)
    ignore = fuzz.random.choice((-100, 0, vocabulary, -(2**40)))
    targets[fuzz.uniform(tokens) < fuzz.random.choice((0.0, 0.3, 1.0))] = ignore
    inner = fuzz.integers(0, tokens + 1, max(sequences - 1, 0)).sort().values
    ends = torch.tensor([tokens] if sequences else [], dtype=torch.int64)
    bounds = torch.cat([torch.tensor([0]), inner, ends])
    odd = fuzz.chance(0.25)
    if odd:
        fuzz.spoil(hidden)
    integer = fuzz.random.choice((torch.int64, torch.int32))
    if ignore != -(2**40):
        targets = targets.to(integer)
    leaves = [
        fuzz.layout(tensor.to(dtype)).detach().requires_grad_()
        for tensor in (hidden, weight, bias)[: 3 if fuzz.chance(0.6) else 2]
    ]
    options = {
        "softcap": fuzz.random.choice((None, None, 2.0, 30.0)),
        "logit_scale": fuzz.random.choice((1.0, 0.3, -0.7)),
        "ignore_index": ignore,
    }
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got = ops.passage_logp(
        *leaves[:2],
        fuzz.layout(targets, filling=vocabulary - 1),
        fuzz.layout(bounds.to(integer)),
        bias=leaves[2] if len(leaves) == 3 else None,
        **options,
    )
    want = reference_passage_logp(
        *exact[:2], targets, bounds, bias=exact[2] if len(exact) == 3 else None, **options
    )
    assert torch.equal(got.tokens, want.tokens)
    largest = want.logp.detach().nan_to_num(0, 0, 0).abs().max().item() if sequences else 0.0
    assert close(got.logp.detach(), want.logp.detach(), 3e-6 * (1 + largest)).all()

    wanted = fuzz.normal(sequences) * (fuzz.uniform(sequences) > 0.3)
    ours = torch.autograd.grad((got.logp * wanted).sum(), leaves)
    truths = torch.autograd.grad((want.logp * wanted.double()).sum(), exact)
    sequence = torch.repeat_interleave(torch.arange(sequences), bounds.diff())
    for number, (one, right) in enumerate(zip(ours, truths, strict=True)):
        assert one.dtype == dtype
        assert one.shape == right.shape
        if odd:  # NaN stays in its sequence's hidden states
            if number > 0:
                continue
            sound = want.logp.isfinite()[sequence] & hidden.isfinite().all(1)
            one, right = one[sound], right[sound]
        if right.numel():
            tolerance = 5e-6 if dtype == torch.float32 else 1e-2
            assert close(one, right, tolerance * (1 + right.abs().max())).all(), number


def longer(tensor: Tensor, dim: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] += 1
    return torch.zeros(shape, dtype=tensor.dtype)


def broken(fuzz: Fuzz, given: dict[str, object], free: set[tuple[str, int]]) -> dict[str, object]:
    """One tensor with another rank, size or dtype; ``free`` sizes depend on no other argument."""
    names = [name for name, value in given.items() if isinstance(value, Tensor)]
    name = fuzz.random.choice(names)
    tensor = given[name]
    assert isinstance(tensor, Tensor)
    sizes = [d for d in range(tensor.ndim) if (name, d) not in free]
    kinds = ["rank", "scalar", "dtype"] + (["size"] if sizes else [])
    kind = fuzz.random.choice(kinds)
    if kind == "rank":
        tensor = tensor.unsqueeze(0)
    elif kind == "scalar":
        tensor = torch.zeros((), dtype=tensor.dtype)
    elif kind == "size":
        tensor = longer(tensor, fuzz.random.choice(sizes))
    else:
        tensor = tensor.to(fuzz.random.choice((torch.bool, torch.complex64, torch.int16)))
    return {**given, name: tensor}


def any_call(fuzz: Fuzz) -> tuple[object, dict[str, object], set[tuple[str, int]]]:
    """An op, sound arguments, and which sizes are free."""
    op = fuzz.random.choice(
        (ops.scan, ops.draw, ops.log_partition, ops.mis_chain, ops.passage_logp)
    )
    b, n, d, m = (fuzz.random.randint(1, 6) for _ in range(4))
    if op is ops.mis_chain:
        given = {"log_weight": fuzz.normal(b, m), "uniforms": fuzz.uniform(b, m)}
        return op, {**given, "start_log_weight": fuzz.normal(b)}, set()
    if op is ops.passage_logp:
        given = {"hidden": fuzz.normal(b, d), "weight": fuzz.normal(n, d)}
        given |= {"targets": fuzz.integers(0, n, b), "cu_seqlens": torch.tensor([0, b])}
        return op, {**given, "bias": fuzz.normal(n)}, {("cu_seqlens", 0)}
    given = {"queries": fuzz.normal(b, d), "passages": fuzz.integers(-9, 9, n, d).to(torch.int8)}
    given |= {"scales": fuzz.normal(n), "exclude": fuzz.integers(0, n, b, m)}
    sound: dict[str, object] = {**given, "inv_temperature": 1.0}
    if op is ops.scan:
        sound["k"] = fuzz.random.randint(1, 9)
    if op is ops.draw:
        sound |= {"tile_lse": fuzz.normal(b, 1), "uniforms": fuzz.uniform(b, m)}
    return op, sound, {("exclude", 1), ("uniforms", 1)}


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_tensors_are_refused(seed):
    fuzz = Fuzz(seed)
    for _ in range(5):
        op, sound, free = any_call(fuzz)
        op(**sound)
        with pytest.raises((ShapeError, DtypeError), match=op.__name__):
            op(**broken(fuzz, sound, free))


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_numbers_are_refused(backend, seed):
    fuzz = Fuzz(seed)
    for _ in range(5):
        op, sound, _ = any_call(fuzz)
        wrong: dict[str, list[object]] = {}
        if "inv_temperature" in sound:
            wrong["inv_temperature"] = [0.0, -1.0, NAN, INF, -INF]
        if "k" in sound:
            wrong["k"] = [0, -1, ops.MAX_K + 1, 2**40, -(2**40)]
        if op is ops.passage_logp:
            tokens = len(sound["targets"])
            words = len(sound["weight"])
            wrong = {
                "softcap": [0.0, -1.0, NAN, INF],
                "logit_scale": [NAN, INF],
                "targets": [torch.full((tokens,), bad) for bad in (-1, words, 2**62, -(2**63))],
                "cu_seqlens": [
                    torch.tensor(bad)
                    for bad in ([0, tokens + 1], [1, tokens], [0, tokens + 1, tokens], [-1, tokens])
                ],
            }
        if backend == "cuda":
            # Nobody waits for the GPU to see what a tensor holds.
            wrong = {name: v for name, v in wrong.items() if not isinstance(v[0], Tensor)}
        for name, values in wrong.items():
            with pytest.raises(JsaragError, match=op.__name__):
                op(**{**sound, name: fuzz.random.choice(values)})
