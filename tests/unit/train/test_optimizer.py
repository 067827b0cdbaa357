"""One AdamW, a learning rate and a clip per part."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from jsarag.errors import CheckpointError
from jsarag.train.optimizer import OptimizerSettings, PartOptimizer, schedule_factor

SETTINGS = OptimizerSettings(
    retriever_learning_rate=0.1,
    generator_learning_rate=0.01,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    clip_norm=1.0,
    warmup_steps=4,
    schedule="linear",
)


def parts() -> dict[str, nn.Module]:
    return {"prior": nn.Linear(2, 2), "generator": nn.Linear(3, 2), "passages": frozen()}


def frozen() -> nn.Module:
    return nn.Linear(2, 2).requires_grad_(False)


def give(module: nn.Module, value: float) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("linear", 0, 0.25),
        ("linear", 3, 1.0),
        ("linear", 4, 1.0),
        ("linear", 12, 0.5),
        ("linear", 20, 0.0),
        ("linear", 25, 0.0),
        ("constant", 19, 1.0),
        ("cosine", 12, 0.5),
        ("cosine", 8, 0.5 * (1 + math.cos(math.pi / 4))),
    ],
)
def test_the_schedule(schedule: str, step: int, factor: float) -> None:
    assert schedule_factor(schedule, step, 4, 20) == pytest.approx(factor)  # type: ignore[arg-type]


def test_a_run_shorter_than_its_warm_up_never_falls() -> None:
    assert [schedule_factor("linear", step, 4, 3) for step in range(3)] == [0.25, 0.5, 0.75]


def test_every_part_moves_at_its_own_rate_and_frozen_ones_not_at_all() -> None:
    modules = parts()
    optimizer = PartOptimizer(modules, SETTINGS)
    assert optimizer.trained_parts == ("prior", "generator")
    before = {name: [p.clone() for p in module.parameters()] for name, module in modules.items()}
    for module in modules.values():
        give(module, 0.5)
    optimizer.step(0.5)
    # Adam's first step is the learning rate, whatever the gradient's size.
    for name, rate in (("prior", 0.05), ("generator", 0.005), ("passages", 0.0)):
        for old, new in zip(before[name], modules[name].parameters(), strict=True):
            torch.testing.assert_close(old - new, torch.full_like(old, rate), atol=1e-6, rtol=1e-4)


def test_clipping_is_per_part() -> None:
    modules = parts()
    optimizer = PartOptimizer(modules, SETTINGS)
    give(modules["prior"], 0.01)
    give(modules["generator"], 100.0)
    norms = optimizer.clip()
    assert norms["prior"].item() == pytest.approx(0.01 * math.sqrt(6), rel=1e-4)
    assert norms["generator"].item() == pytest.approx(100 * math.sqrt(8), rel=1e-4)
    assert modules["prior"].weight.grad is not None
    assert modules["prior"].weight.grad[0, 0].item() == pytest.approx(0.01)
    squares = sum(float(p.grad.square().sum()) for p in modules["generator"].parameters())  # type: ignore[union-attr]
    assert math.sqrt(squares) == pytest.approx(1.0, rel=1e-3)


def test_parts_without_a_gradient_are_left_alone() -> None:
    modules = parts()
    optimizer = PartOptimizer(modules, SETTINGS)
    give(modules["prior"], 1.0)
    before = [p.clone() for p in modules["generator"].parameters()]
    assert optimizer.clip().keys() == {"prior"}
    optimizer.step(1.0)
    assert all(map(torch.equal, before, modules["generator"].parameters()))
    optimizer.zero_grad()
    assert modules["prior"].weight.grad is None


def test_matrices_decay_and_vectors_do_not() -> None:
    modules = {"prior": nn.Linear(2, 2)}
    nn.init.ones_(modules["prior"].weight)
    nn.init.ones_(modules["prior"].bias)
    optimizer = PartOptimizer(modules, replace(SETTINGS, weight_decay=0.5))
    give(modules["prior"], 0.0)
    optimizer.step(1.0)
    assert modules["prior"].weight[0, 0].item() == pytest.approx(0.95)
    assert modules["prior"].bias[0].item() == 1.0


def test_its_state_continues_where_it_was() -> None:
    torch.manual_seed(0)
    modules = parts()
    copies = {name: copy_of(module) for name, module in modules.items()}
    one, other = PartOptimizer(modules, SETTINGS), PartOptimizer(copies, SETTINGS)
    for value in (0.3, -0.2):
        give(modules["prior"], value)
        one.step(1.0)
    copies["prior"].load_state_dict(modules["prior"].state_dict())
    other.load(*one.state())
    for module in (modules["prior"], copies["prior"]):
        give(module, 0.7)
    one.step(1.0)
    other.step(1.0)
    assert all(map(torch.equal, modules["prior"].parameters(), copies["prior"].parameters()))


def test_a_state_of_parts_that_are_frozen_here_is_refused() -> None:
    modules = parts()
    optimizer = PartOptimizer(modules, SETTINGS)
    give(modules["prior"], 1.0)
    optimizer.step(1.0)
    with pytest.raises(CheckpointError, match=r"train\.freeze"):
        PartOptimizer({"prior": frozen()}, SETTINGS).load(*optimizer.state())


def test_nothing_to_train_is_no_error() -> None:
    optimizer = PartOptimizer({"prior": frozen()}, SETTINGS)
    optimizer.zero_grad()
    assert optimizer.clip() == {}
    optimizer.step(1.0)
    assert optimizer.state() == ({}, {})
    optimizer.load({}, {})


def copy_of(module: nn.Module) -> nn.Module:
    assert isinstance(module, nn.Linear)
    copy = nn.Linear(module.in_features, module.out_features)
    copy.load_state_dict(module.state_dict())
    return copy.requires_grad_(module.weight.requires_grad)
