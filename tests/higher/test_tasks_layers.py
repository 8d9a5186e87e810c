"""Each layer of ``torch.nn`` with ``tasks=``, against a loop over the tasks."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from layers import LAYERS, NO_SECOND_DERIVATIVE, OTHERS, RANDOM, REFUSED, TASKS, value
from torch import Tensor, nn

import higher

STEPS = 2


def model_of(make: Any) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model, inputs = make()
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model, [x.requires_grad_(x.is_floating_point()) for x in inputs]


def loss_fn(fmodel: Any, batch: list[Tensor]) -> Tensor:
    return value(fmodel(*batch))


def at_once(model: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    opt = torch.optim.SGD(model.parameters(), lr=0.05)
    with higher.innerloop_ctx(model, opt, copy_initial_weights=False, tasks=TASKS) as (
        f,
        diffopt,
    ):
        higher.unroll(f, diffopt, loss_fn, [inputs] * STEPS)
        return higher.map_tasks(f, loss_fn, inputs), list(f.buffers())


def in_a_loop(model: nn.Module, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    losses, buffers = [], []
    for i in range(TASKS):
        opt = torch.optim.SGD(model.parameters(), lr=0.05)
        own = [x[i] for x in inputs]
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (
            f,
            diffopt,
        ):
            higher.unroll(f, diffopt, loss_fn, [own] * STEPS)
            losses.append(loss_fn(f, own))
            buffers.append(list(f.buffers()))
    return torch.stack(losses), [torch.stack(b) for b in zip(*buffers)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_values_and_derivatives_of_the_loop(name: str) -> None:
    model, inputs = model_of(LAYERS[name])
    sources = [*model.parameters(), *(x for x in inputs if x.requires_grad)]
    results = []
    for run in (at_once, in_a_loop):
        losses, buffers = run(model, inputs)
        total = (losses * torch.arange(1.0, TASKS + 1)).sum()
        grads = torch.autograd.grad(total, sources, allow_unused=True)
        results.append([losses.detach(), *grads, *buffers])
    assert any(g is not None and g.abs().max() > 1e-3 for g in results[1][1:])
    for i, (found, wanted) in enumerate(zip(*results, strict=True)):
        found, wanted = (torch.zeros(1) if t is None else t for t in (found, wanted))
        scale = max(float(wanted.abs().max()), 1e-2)
        off = float((found - wanted).abs().max()) / scale
        assert off < 1e-9, f"{i}: {off}"


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_cant_be_mapped_is_refused_by_name(name: str) -> None:
    make, words = REFUSED[name]
    model, inputs = model_of(make)
    with pytest.raises(RuntimeError, match="can't be mapped over tasks") as error:
        at_once(model, inputs)
    assert re.search(re.escape(words), str(error.value))
    # of the program, not of torch or of this library
    assert "layers.py" in str(error.value)


def test_no_layer_of_torch_is_left_out() -> None:
    known = {name.split()[0] for name in [*LAYERS, *REFUSED]}
    known |= {*NO_SECOND_DERIVATIVE, *RANDOM, *OTHERS}
    modules: Any = torch.nn.modules
    layers = {n for n in modules.__all__ if not n.startswith("Lazy")}
    assert layers - known == set()


@pytest.mark.parametrize("name", RANDOM)
def test_dropout_differs_from_task_to_task(name: str) -> None:
    layer = nn.Sequential(nn.Linear(3, 200, bias=False), getattr(nn, name)(0.4))
    nn.init.constant_(layer[0].weight, 1.0)
    opt = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = (
        torch.ones(1, 50, 3)
        if name in ("Dropout", "AlphaDropout")
        else torch.ones(1, 9, 20, 3)
    )
    if name in ("Dropout3d", "FeatureAlphaDropout"):
        x = torch.ones(1, 4, 9, 1, 1, 3)
    if name == "Dropout2d":
        x = torch.ones(1, 4, 9, 1, 3)
    with higher.innerloop_ctx(layer, opt, tasks=2) as (f, _):
        first, second = f(x).unbind()
    dropped = [(t != t.max()).double().mean() for t in (first, second)]
    assert all(0.2 < float(d) < 0.6 for d in dropped)
    assert not torch.equal(first, second)
