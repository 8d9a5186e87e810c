"""Weights and state that a step hands out: no views, so that they can be detached in
place, and still of one memory where that saves a copy."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn


import higher
from higher._generated import OPTIMIZERS

F64 = torch.float64
SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9},
    "Adam": {"lr": 0.05, "amsgrad": True},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "Rprop": {"lr": 0.01},
    "Muon": {"lr": 0.01},
}
NAMES = {p.rpartition(".")[2] for p in OPTIMIZERS} - {"SparseAdam"}
REAL = [(name, F64) for name in sorted(NAMES)]
COMPLEX = [(n, torch.complex128) for n in sorted(NAMES - {"Adafactor", "Muon"})]


def net(dtype: torch.dtype = F64) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4, False), nn.Linear(4, 4, False), nn.Linear(4, 2, False)]
    model = nn.Sequential(*layers).double()
    if dtype.is_complex:
        for layer in layers:
            layer.weight = nn.Parameter(layer.weight.to(dtype) * (1 + 0.5j))
    return model


X = torch.linspace(-1, 1, 15, dtype=F64).reshape(5, 3)


def loss(model: nn.Module, k: int = 0) -> Tensor:
    out = model((X * (1 + 0.3 * k)).to(next(model.parameters()).dtype)) - 0.5
    return (out * out.conj()).real.mean()


def tensors(diffopt: higher.optim.DifferentiableOptimizer) -> Iterator[Tensor]:
    for states in diffopt.state:
        for slots in states.values():
            yield from (v for v in slots.values() if isinstance(v, Tensor))


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize(("name", "dtype"), [*REAL, *COMPLEX])
def test_no_view_is_handed_out(name: str, dtype: torch.dtype, track: bool) -> None:
    model = net(dtype)
    opt = getattr(torch.optim, name)(model.parameters(), **SETTINGS.get(name, {}))
    with higher.innerloop_ctx(model, opt, track_higher_grads=track) as (fmodel, diff):
        for k in range(3):
            diff.step(loss(fmodel, k))
        handed = [*fmodel.parameters(), *tensors(diff)]
        assert not [t for t in handed if t._is_view()]
        for t in handed:
            t.detach_()
        for w in fmodel.parameters():
            w.requires_grad_()
        diff.step(loss(fmodel, 3))
    for k in range(4):
        opt.zero_grad()
        loss(model, k).backward()
        opt.step()
    torch.testing.assert_close(
        [w.detach() for w in fmodel.parameters()],
        [p.detach() for p in model.parameters()],
    )


def test_state_that_is_detached_in_place_ends_the_graph() -> None:
    """As a public program does every few steps, by the means of the classic library."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scale = torch.tensor(1.0, dtype=F64, requires_grad=True)
    found = []
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for window in range(2):
            for k in range(2):
                diff.step(scale * loss(fmodel, 2 * window + k))
            found.append(torch.autograd.grad(loss(fmodel), scale)[0])
            latest = fmodel.fast_params
            fmodel._fast_params = []
            fmodel.update_params(latest)
            for w in fmodel.fast_params:
                w.detach_().requires_grad_()
            for t in tensors(diff):
                t.detach_()
    expected = []
    weights = [p.detach().clone() for p in model.parameters()]
    buffers = [torch.zeros_like(w) for w in weights]
    for window in range(2):
        weights = [w.detach().requires_grad_() for w in weights]
        buffers = [b.detach() for b in buffers]
        for k in range(2):
            held = scale * _plain(weights, 2 * window + k)
            grads = torch.autograd.grad(held, weights, create_graph=True)
            buffers = [0.9 * b + g for b, g in zip(buffers, grads)]
            weights = [w - 0.05 * b for w, b in zip(weights, buffers)]
        expected += torch.autograd.grad(_plain(weights), scale)
    torch.testing.assert_close(found, expected)


def _plain(weights: list[Tensor], k: int = 0) -> Tensor:
    out = X * (1 + 0.3 * k)
    for w in weights:
        out = out @ w.t()
    return (out - 0.5).square().mean()


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("largest", [0, 1 << 14])
def test_state_that_is_written_into(
    grad: bool, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined or not, in the graph or not, with one result."""
    monkeypatch.setattr(higher.optim.flat_groups, "LARGEST", largest)
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    factor = torch.tensor(0.5, dtype=F64, requires_grad=grad)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for k in range(4):
            diff.step(loss(fmodel, k))
            with torch.set_grad_enabled(grad):
                diff.state[0][1]["momentum_buffer"].mul_(factor)
    weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
    buffers = [torch.zeros_like(w) for w in weights]
    initial = weights
    for k in range(4):
        grads = torch.autograd.grad(_plain(weights, k), weights, create_graph=True)
        buffers = [0.9 * b + g for b, g in zip(buffers, grads)]
        weights = [w - 0.05 * b for w, b in zip(weights, buffers)]
        buffers[1] = buffers[1] * factor
    torch.testing.assert_close(list(fmodel.parameters()), weights)
    if grad:
        found = torch.autograd.grad(
            loss(fmodel), [*fmodel.parameters(time=0), factor], retain_graph=True
        )
        expected = torch.autograd.grad(_plain(weights), [*initial, factor])
        torch.testing.assert_close(found, expected)


def test_state_is_still_of_one_memory() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for k in range(3):
            diff.step(loss(fmodel, k))
        memory = {t.untyped_storage().data_ptr() for t in tensors(diff)}
        assert len(memory) == 1


def test_a_part_that_is_detached_lets_go_of_the_graph() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        for k in range(3):
            diff.step(loss(fmodel, k))
        gone = weakref.ref(next(tensors(diff)).grad_fn)
        fmodel._fast_params = [[w.detach() for w in fmodel.parameters()]]
        assert gone() is not None
        for t in tensors(diff):
            t.detach_()
        assert gone() is None
