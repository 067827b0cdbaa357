"""One way back, in chunks: the gradient is that of one graph over everything, for any model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jsarag.assemble import Parts, make_em_settings, make_parts, make_run_objective
from jsarag.config.load import flag, resolve_run
from jsarag.config.schema import Config
from jsarag.em.chains import ChainStore
from jsarag.em.generator_stages import Concatenate, WarmUp
from jsarag.em.objectives import Objective, objective_class, objective_names
from jsarag.train.back import Tape, Thinning
from jsarag.train.problem import Batch, WalkBack, Windows, make_problem
from jsarag.train.start import search_all
from jsarag_bench.end_to_end import toy_world

ROWS = 5
HUGE, SMALL = 1_000_000, 64


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data, encoder, llama and t5 folders."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("data", "encoder", "llama", "t5"):
        (folder / name).mkdir()
    toy_world.write_data(folder / "data")
    toy_world.write_encoder(folder / "encoder")
    for kind in ("llama", "t5"):
        toy_world.write_language_model(folder / kind, folder / "encoder", kind)
    return folder


Make = Callable[..., tuple[Config, Parts]]


@pytest.fixture(scope="module")
def make(world: Path) -> Iterator[Make]:
    """Parts in float64 on the toy world."""

    def build(generator: str, **settings: Any) -> tuple[Config, Parts]:
        model = generator if generator in ("copy", "query-likelihood") else str(world / generator)
        merged = {
            **toy_world.SETTINGS,
            "retriever.model": str(world / "encoder"),
            "generator.model": model,
            "generator.template": "{context}\\n{title} {passage}\\n",
            "objective.k": 4,
            "objective.mis_steps": 6,
            **settings,
        }
        overrides = [
            flag(key, value if isinstance(value, bool) else str(value), "test")
            for key, value in merged.items()
        ]
        config = resolve_run(
            dataset=str(world / "data"), overrides=overrides, environment={}
        ).config
        parts = make_parts(config, splits=())
        for module in (parts.retrievers, parts.generator):
            module.double()
        parts.prior_index.embeddings = parts.prior_index.embeddings.double()
        parts.retrievers.train()
        parts.generator.train()
        return config, parts

    return build


def parameters(parts: Parts) -> dict[str, nn.Parameter]:
    modules = {**parts.retrievers.parts(), "generator": parts.generator}
    return {
        f"{part}.{name}": parameter
        for part, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def gradients(
    config: Config,
    parts: Parts,
    objective: Objective,
    *,
    tokens: int,
    draws: int = 0,
    cutoff: float = 0.0,
    visit: int = 0,
) -> dict[str, Tensor]:
    """The gradient of one batch, with everything in chunks of ``tokens``."""
    for network in (*parts.retrievers.parts().values(), parts.generator):
        network.budget_tokens = tokens
    for parameter in parameters(parts).values():
        parameter.grad = None
    batch = Batch(parts.dataset.splits["train"][:ROWS], [visit] * ROWS, list(range(ROWS)))
    tape, windows = Tape(), Windows(3, 1, 3)
    start = search_all(parts, windows, 2)[batch.indices] if objective.needs_start else None
    problem = make_problem(
        parts, batch, windows, tape, WalkBack(draws, cutoff, 1), objective, start
    )
    candidates = objective.candidates(problem)
    scores = objective.score(problem, candidates)
    weights = objective.weights(problem, candidates, scores)
    objective.loss(problem, candidates, scores, weights).total.backward()
    tape.back()
    return {
        name: parameter.grad.clone()
        for name, parameter in parameters(parts).items()
        if parameter.grad is not None
    }


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        size = gradient.abs().max().clamp_min(1e-6)
        error = ((gradient - other[name]).abs().max() / size).item()
        assert error < tolerance, f"{name}: {error:.1e}"


LORA = {"generator.lora.rank": 2}
GENERATORS = [
    pytest.param("llama", {}, id="decoder"),
    pytest.param("llama", LORA, id="decoder-lora"),
    pytest.param("t5", {}, id="encoder-decoder"),
    pytest.param("t5", LORA, id="encoder-decoder-lora"),
    pytest.param("copy", {}, id="copy"),
]


@pytest.mark.parametrize(("generator", "settings"), GENERATORS)
@pytest.mark.parametrize("frozen", ["passages", "none"])
@pytest.mark.parametrize("name", [*objective_names(), "warm-up", "concatenate"])
def test_chunked_gradients_are_those_of_one_graph(
    make: Make, name: str, frozen: str, generator: str, settings: dict[str, Any]
) -> None:
    freeze = {"train.freeze": "passages" if frozen == "passages" else ""}
    chosen, support = {}, {}
    if name in objective_names():
        chosen = {"objective.name": name}
        support = {"objective.support": objective_class(name).supports[0]}
    config, parts = make(generator, **settings, **freeze, **support, **chosen)
    stages = {"warm-up": WarmUp, "concatenate": Concatenate}
    objective = (
        stages[name](make_em_settings(config), 2)
        if name in stages
        else make_run_objective(config, ChainStore())
    )
    whole = gradients(config, parts, objective, tokens=HUGE)
    chunked = gradients(config, parts, objective, tokens=SMALL)
    # The compiled kernels work in f32 only: float64 takes the reference, but for log q's draws. A
    # language model's norm rounds to f32 inside, where a last bit of f64 may tip the rounding.
    assert_same(whole, chunked, 1e-9 if generator == "copy" else 1e-6)
    assert whole
    trained = {name.partition(".")[0] for name in whole}
    assert ("generator" in trained) == (name not in {"distil", "contrastive", "wrag"})
    assert ("passages" in trained) == (frozen == "none" and name not in stages)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenisers_padding_side_does_not_matter(make: Make, side: str) -> None:
    config, parts = make("llama")
    objective = make_run_objective(config, ChainStore())
    expected = gradients(config, parts, objective, tokens=SMALL)
    parts.generator.tokenizer.padding_side = side
    assert_same(expected, gradients(config, parts, objective, tokens=SMALL), 1e-12)


def test_what_is_not_kept_is_computed_again_in_pieces_that_fit(make: Make) -> None:
    config, parts = make("llama")
    objective = make_run_objective(config, ChainStore())
    seen: list[tuple[int, bool]] = []
    network = parts.generator.network
    handle = network.get_input_embeddings().register_forward_hook(
        lambda module, args, out: seen.append((args[0].numel(), torch.is_grad_enabled()))
    )
    gradients(config, parts, objective, tokens=HUGE)
    assert [graded for _, graded in seen] == [True]
    seen.clear()
    gradients(config, parts, objective, tokens=128)
    handle.remove()
    first = [tokens for tokens, graded in seen if not graded]
    again = [tokens for tokens, graded in seen if graded]
    assert len(first) > 1
    assert len(again) > 1
    assert max(first + again) <= 128


@pytest.mark.parametrize("tokens", [HUGE, SMALL])
def test_a_text_is_tokenised_once_whatever_the_chunks(make: Make, tokens: int) -> None:
    config, parts = make("query-likelihood")
    encoder = parts.retrievers.prior
    encoder.truncation.reset()
    gradients(config, parts, make_run_objective(config, ChainStore()), tokens=tokens)
    assert encoder.truncation.fields["query"].texts == ROWS


def test_drawn_pairs_give_the_full_gradient_in_the_mean(make: Make) -> None:
    """The generator's gradient: unbiased; the retrievers': exactly the full one."""
    config, parts = make("llama", **LORA)
    objective = make_run_objective(config, ChainStore())
    # Draws are keyed by the visit, and so are the candidates: fix those by enumerating.
    objective.settings = replace(objective.settings, support="union", estimator="exact")
    full = gradients(config, parts, objective, tokens=HUGE)
    count, total, squares = 60, {}, {}
    for visit in range(count):
        drawn = gradients(config, parts, objective, tokens=HUGE, draws=1, visit=visit)
        for name, gradient in drawn.items():
            if not name.startswith("generator"):
                torch.testing.assert_close(gradient, full[name], rtol=1e-9, atol=1e-12)
                continue
            total[name] = total.get(name, 0) + gradient
            squares[name] = squares.get(name, 0) + gradient.square()
    assert total
    worst = []
    for name in total:
        mean = total[name] / count
        error = ((squares[name] / count - mean.square()).clamp_min(0) / count).sqrt()
        varying = error > 1e-9
        worst.append(((mean - full[name]).abs()[varying] / error[varying]).flatten())
    deviations = torch.cat(worst)
    # In standard errors; a factor or a sign slipped would be tens of them.
    assert deviations.numel() > 100
    assert deviations.square().mean().sqrt() < 2


def test_dropout_runs_on_the_way_back_only_and_repeats(make: Make) -> None:
    config, parts = make("llama", **LORA, **{"generator.lora.dropout": 0.5})
    # The adapters start as the identity; dropout needs something to drop.
    with torch.no_grad():
        for name, parameter in parts.generator.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    objective = make_run_objective(config, ChainStore())

    def seeded(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return gradients(config, parts, objective, tokens=HUGE)

    one, same, other = seeded(1), seeded(1), seeded(2)
    assert_same(one, same, 1e-12)
    differing = {name for name in one if not torch.allclose(one[name], other[name])}
    assert differing
    # Coefficients come from the model without dropout: what the retrievers learn is no lottery.
    assert all(name.startswith("generator") for name in differing)


def test_light_pairs_are_spared(make: Make) -> None:
    config, parts = make("llama")
    objective = make_run_objective(config, ChainStore())
    seen: list[int] = []
    score = parts.generator.response_logp

    def counting(inputs: Any) -> Any:
        seen.append(len(inputs))
        return score(inputs)

    parts.generator.response_logp = counting  # type: ignore[method-assign]
    gradients(config, parts, objective, tokens=SMALL, cutoff=0.0)
    every = sum(seen)
    seen.clear()
    gradients(config, parts, objective, tokens=SMALL, cutoff=0.9)
    assert sum(seen) < every
    assert sum(seen[1:]) == ROWS


def test_a_tape_is_used_up() -> None:
    class Double:
        network: Any = nn.Linear(1, 1)
        repeats = True

        def __len__(self) -> int:
            return 3

        def tokens(self, rows: Any) -> int:
            return len(rows)

        def chunks(self, rows: Any) -> list[list[int]]:
            return [[row] for row in rows]

        def __call__(self, rows: Any) -> Tensor:
            places = torch.tensor(list(rows), dtype=torch.float32)[:, None]
            return self.network(places)[:, 0]

    computation = Double()
    computation.network.budget_tokens = 1
    tape = Tape()
    example = torch.tensor([0, 0, 1])
    thinning = Thinning(example, 0, 0.0, torch.rand(2, dtype=torch.float64))
    leaf = tape.record(computation, trains=True, thinning=thinning)
    (leaf * torch.tensor([1.0, 0.0, 2.0])).sum().backward()
    tape.back()
    weight = computation.network.weight
    assert weight.grad.item() == pytest.approx(0 * 1 + 2 * 2)
    tape.back()
    assert weight.grad.item() == pytest.approx(4)
    frozen = tape.record(computation, trains=False)
    assert not frozen.requires_grad
    with torch.no_grad():
        assert not tape.record(computation, trains=True).requires_grad
