"""Gradients of several losses in one step; weights that are unfrozen on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import higher

F64 = torch.float64
X = torch.linspace(-1, 1, 24, dtype=F64).reshape(4, 2, 3)
OPTIMIZERS: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.2, "momentum": 0.9}),
    (torch.optim.Adam, {"lr": 0.05, "eps": 1e-3}),
]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def loss(model: nn.Module, k: int, scale: Tensor | float = 1.0) -> Tensor:
    result: Tensor = (model(X[k % 4]) - 0.1 * k).square().mean() * scale
    return result


def finite_difference(train: Any) -> float:
    """By the scale of the losses, in plain training."""
    step = 1e-5
    up, down = (train(1.0 + sign * step).item() for sign in (1, -1))
    return (up - down) / (2 * step)


def accumulated(kind: Any, settings: dict[str, Any], scale: float) -> Tensor:
    model = net()
    opt = kind(model.parameters(), **settings)
    for turn in range(3):
        opt.zero_grad()
        for k in range(4):
            loss(model, k + turn, scale).backward()
        opt.step()
    return loss(model, 9)


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
@pytest.mark.parametrize("how", ["sum", "grads"])
@pytest.mark.parametrize("track", [True, False])
def test_several_losses_make_one_step(
    kind: Any, settings: dict[str, Any], how: str, track: bool
) -> None:
    model = net()
    opt = kind(model.parameters(), **settings)
    scale = torch.tensor(1.0, dtype=F64, requires_grad=True)
    with higher.innerloop_ctx(model, opt, track_higher_grads=track) as (fmodel, diff):
        for turn in range(3):
            if how == "sum":
                diff.step(sum(loss(fmodel, k + turn, scale) for k in range(4)))
                continue
            weights = list(fmodel.parameters())
            total = [torch.zeros_like(w) for w in weights]
            for k in range(4):
                found = torch.autograd.grad(
                    loss(fmodel, k + turn, scale), weights, create_graph=track
                )
                total = [a + g for a, g in zip(total, found)]
            diff.step(grads=total)
        outer = loss(fmodel, 9)
        torch.testing.assert_close(outer, accumulated(kind, settings, 1.0))
        if track:
            wanted = finite_difference(lambda s: accumulated(kind, settings, s))
            found = torch.autograd.grad(outer, scale)[0].item()
            assert found == pytest.approx(wanted, rel=1e-6)


def test_gradients_are_called_back_and_may_be_absent() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=1.0)
    with higher.innerloop_ctx(model, opt, order=1) as (fmodel, diff):
        before = list(fmodel.parameters())
        ones = torch.ones(4, 3, dtype=F64)
        double = lambda gs: [g if g is None else 2 * g for g in gs]  # noqa: E731
        new = diff.step(grads=[ones, None, None, None], grad_callback=double)
    torch.testing.assert_close(new[0], before[0] - 2)
    torch.testing.assert_close(new[1:], before[1:], rtol=0, atol=0)


def test_gradients_that_do_not_fit_are_refused() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=1.0)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        grads = torch.autograd.grad(
            loss(fmodel, 0), list(fmodel.parameters()), create_graph=True
        )
        with pytest.raises(ValueError, match="one of the two"):
            diff.step()
        with pytest.raises(ValueError, match="one of the two"):
            diff.step(loss(fmodel, 0), grads=grads)
        with pytest.raises(ValueError, match="3 gradients; its reference"):
            diff.step(grads=grads[:3])
        with pytest.raises(ValueError, match="Gradient 0 has shape"):
            diff.step(grads=[grads[0].t(), *grads[1:]])
        with pytest.raises(ValueError, match="all are None"):
            diff.step(grads=[None] * 4)
        with pytest.raises(RuntimeError, match="carry no graph"):
            diff.step(grads=[g.detach() for g in grads])
        diff.step(grads=grads)


def unfrozen(kind: Any, settings: dict[str, Any], scale: float) -> Tensor:
    model = net()
    model[0].requires_grad_(False)
    opt = kind(model.parameters(), **settings)
    for k in range(6):
        if k == 3:
            model[0].weight.requires_grad_()
        opt.zero_grad()
        loss(model, k, scale).backward()
        opt.step()
    return loss(model, 9)


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS)
@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("memory", [None, "full", "step", 2])
def test_weights_are_unfrozen_on_the_way(
    kind: Any, settings: dict[str, Any], memory: Any, within: bool
) -> None:
    model = net()
    model[0].requires_grad_(False)
    opt = kind(model.parameters(), **settings)
    scale = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def loss_fn(fmodel: nn.Module, k: int) -> Tensor:
        if within and k == 3:
            fmodel[0].weight.requires_grad_()
        return loss(fmodel, k, scale)

    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for part in (range(3), range(3, 6)):
            if not within and part.start:
                fmodel[0].weight.requires_grad_()
            if memory is None:
                for k in part:
                    diff.step(loss_fn(fmodel, k))
            else:
                higher.unroll(fmodel, diff, loss_fn, part, memory=memory)
        outer = loss(fmodel, 9)
    assert not model[0].weight.requires_grad
    torch.testing.assert_close(outer, unfrozen(kind, settings, 1.0))
    wanted = finite_difference(lambda s: unfrozen(kind, settings, s))
    found = torch.autograd.grad(outer, scale)[0].item()
    assert found == pytest.approx(wanted, rel=1e-6)
