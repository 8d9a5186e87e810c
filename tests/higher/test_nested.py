"""A loop within a loop: the stateless module of one context is the model of another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import higher

F64 = torch.float64
X = torch.linspace(-1, 1, 12, dtype=F64).reshape(4, 3)
RATES = 0.3, 0.2


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    model[0].bias.requires_grad_(False)
    return model


def loss(model: Callable[[Tensor], Any], scale: float = 1.0) -> Tensor:
    result: Tensor = (model(scale * X) - 0.4).square().mean()
    return result


def plain(weights: list[Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: (x @ weights[0].t() + weights[1]) @ weights[2].t() + weights[3]


def descended(
    weights: list[Tensor], value: Tensor, buffers: list[Tensor], lr: float
) -> tuple[list[Tensor], list[Tensor]]:
    wanted = [w for w in weights if w.requires_grad]
    grads = iter(torch.autograd.grad(value, wanted, create_graph=True))
    each = [next(grads) if w.requires_grad else torch.zeros_like(w) for w in weights]
    buffers = [0.9 * b + g for b, g in zip(buffers, each)]
    return [w - lr * b for w, b in zip(weights, buffers)], buffers


def expected(model: nn.Module, warm: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Two steps, whose loss is that after two steps from there."""
    initial = [
        p.detach().clone().requires_grad_(p.requires_grad) for p in model.parameters()
    ]
    weights, buffers = initial, warm
    for k in range(2):
        inner, momentum = weights, warm
        for j in range(2):
            value = loss(plain(inner), 1.0 + k + j)
            inner, momentum = descended(inner, value, momentum, RATES[1])
        weights, buffers = descended(weights, loss(plain(inner)), buffers, RATES[0])
    outer = loss(plain(weights), 0.5)
    wanted = [w for w in initial if w.requires_grad]
    return outer.detach(), list(torch.autograd.grad(outer, wanted))


def nested(
    model: nn.Module, outer_opt: Any, inner_opt: Any
) -> tuple[Tensor, list[Tensor]]:
    with higher.innerloop_ctx(model, outer_opt, copy_initial_weights=False) as (f, d):
        for k in range(2):
            with higher.innerloop_ctx(f, inner_opt, copy_initial_weights=False) as (
                g,
                e,
            ):
                for j in range(2):
                    e.step(loss(g, 1.0 + k + j))
                d.step(loss(g))
        outer = loss(f, 0.5)
        wanted = [p for p in model.parameters() if p.requires_grad]
        return outer.detach(), list(torch.autograd.grad(outer, wanted))


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "used"])
def test_an_optimizer_of_the_originals_parameters(trained: bool) -> None:
    model = net()
    optimizers = [
        torch.optim.SGD(reversed(list(model.parameters())), lr=lr, momentum=0.9)
        for lr in RATES
    ]
    warm = [torch.zeros_like(p) for p in model.parameters()]
    if trained:
        for p, b in zip(model.parameters(), warm):
            if p.requires_grad:
                b.fill_(0.1)
                for opt in optimizers:
                    opt.state[p]["momentum_buffer"] = b.clone()
    torch.testing.assert_close(nested(model, *optimizers), expected(model, warm))


@pytest.mark.parametrize("part", [True, False])
def test_what_makes_an_optimizer(part: bool) -> None:
    model = net()
    make: list[Any] = [
        functools.partial(torch.optim.SGD, lr=lr, momentum=0.9) for lr in RATES
    ]
    if not part:
        make[1] = lambda ps: torch.optim.SGD(
            [{"params": ps[2:]}, {"params": ps[:2]}], lr=RATES[1], momentum=0.9
        )
    warm = [torch.zeros_like(p) for p in model.parameters()]
    torch.testing.assert_close(nested(model, *make), expected(model, warm))


def test_an_optimizer_of_weights_of_the_outer_loop() -> None:
    """They are leaves as long as there was no step."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for which in ("first", "original"):
        with higher.innerloop_ctx(model, opt) as (f, d):
            own = (
                opt if which == "original" else torch.optim.SGD(f.parameters(), lr=0.1)
            )
            d.step(loss(f))
            with higher.innerloop_ctx(f, own) as (g, e):
                e.step(loss(g))
                with higher.innerloop_ctx(g, own, copy_initial_weights=False) as (h, i):
                    i.step(loss(h))
                    found.append([w.detach() for w in h.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_part_of_the_module_of_the_outer_loop() -> None:
    """The head adapts by itself, from weights that the outer loop made."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=RATES[0], momentum=0.9)
    own = torch.optim.SGD(model[1].parameters(), lr=RATES[1], momentum=0.9)
    for make in (own, lambda params: torch.optim.SGD(params, lr=RATES[1])):
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            d.step(loss(f))
            with higher.innerloop_ctx(f[1], make, copy_initial_weights=False) as (h, e):
                e.step(loss(lambda x: h(f[0](x))))
                outer = loss(lambda x: h(f[0](x)), 0.5)
            wanted = [p for p in model.parameters() if p.requires_grad]
            found = torch.autograd.grad(outer, wanted)
        first = [p.detach().clone() for p in model.parameters()]
        for w, p in zip(first, model.parameters()):
            w.requires_grad_(p.requires_grad)
        zeros = [torch.zeros_like(w) for w in first]
        weights, _ = descended(first, loss(plain(first)), zeros, RATES[0])
        head = list(
            torch.autograd.grad(loss(plain(weights)), weights[2:], create_graph=True)
        )
        moved = [w - RATES[1] * g for w, g in zip(weights[2:], head)]
        value = loss(plain([*weights[:2], *moved]), 0.5)
        expected = torch.autograd.grad(value, [w for w in first if w.requires_grad])
        torch.testing.assert_close(found, expected)


def test_one_type_suffices() -> None:
    model = net()
    with higher.innerloop_ctx(model, torch.optim.Adam) as (f, d):
        d.step(loss(f))
        with higher.innerloop_ctx(f, torch.optim.SGD) as (g, e):
            assert type(e) is higher.optim.DifferentiableSGD
            e.step(loss(g))


def test_what_is_no_optimizer_is_told() -> None:
    model, other = net(), net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (f, d):
        with pytest.raises(TypeError, match="Pass the original one"):
            with higher.innerloop_ctx(f, d):  # type: ignore[arg-type]
                pass
        with pytest.raises(TypeError, match="it made list"):
            with higher.innerloop_ctx(f, lambda params: params):  # type: ignore
                pass
        strange = torch.optim.SGD(other.parameters(), lr=0.1)
        with pytest.raises(ValueError, match="original model, or pass what makes it"):
            with higher.innerloop_ctx(f, strange):
                pass
    with pytest.raises(TypeError, match="not int"):
        with higher.innerloop_ctx(model, 3):  # type: ignore[arg-type]
            pass
