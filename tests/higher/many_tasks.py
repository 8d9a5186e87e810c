"""Inner loops of three tasks: one loop for all, and a loop over them, its oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import higher

TASKS, STEPS = 3, 3
MEMORY: list[Any] = ["full", "step", "low", 2]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": dict(lr=0.05, amsgrad=True),
    "AdamW": dict(lr=0.05),
    "NAdam": dict(lr=0.05),
    "RAdam": dict(lr=0.05, betas=(0.9, 0.6)),
    "Adagrad": dict(lr=0.1, initial_accumulator_value=0.1),
    "Adadelta": dict(lr=1.0),
    "Adamax": dict(lr=0.05),
    "ASGD": dict(lr=0.1, lambd=0.1, t0=1),
    "RMSprop": dict(lr=0.01, centered=True, momentum=0.5),
    "Rprop": dict(lr=0.05),
    "Adafactor": dict(lr=0.1),
    "Muon": dict(lr=0.1),
}
Optimize = Callable[[nn.Module], torch.optim.Optimizer]


def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Linear(3, 6, bias=False),
        nn.BatchNorm1d(6, affine=False),
        nn.Tanh(),
        nn.Linear(6, 2, bias=False),
    ]
    return nn.Sequential(*layers).to(dtype)


def data(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    """Batches of all steps and the outer one, stacked over tasks."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(STEPS + 1, TASKS, 5, n, generator=g).to(dtype) for n in (3, 2))
    return list(zip(x, y))


def loss_fn(f: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.mse_loss(f(x), y)


def optimizer(name: str) -> Optimize:
    return lambda m: getattr(torch.optim, name)(m.parameters(), **OPTIMIZERS[name])


def sgd(m: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)


def derivatives(losses: Tensor, sources: list[Tensor]) -> list[Tensor]:
    weights = torch.arange(1.0, TASKS + 1, dtype=losses.dtype)
    return list(torch.autograd.grad((losses * weights).sum(), sources))


def in_a_loop(
    make: Optimize,
    override: Callable[[int], Mapping[str, Any]] | None = None,
    sources: list[Tensor] = [],
    model: nn.Module | None = None,
    loss_fn: Callable[..., Tensor] = loss_fn,
    **kwargs: Any,
) -> list[Tensor]:
    """Outer losses, derivatives and buffers by one inner loop a task."""
    model = net() if model is None else model
    *inner, outer = data()
    losses, buffers = [], []
    for i in range(TASKS):
        with higher.innerloop_ctx(
            model,
            make(model),
            copy_initial_weights=False,
            override=None if override is None else override(i),
        ) as (f, diffopt):
            for x, y in inner:
                diffopt.step(loss_fn(f, (x[i], y[i])), **kwargs)
            losses.append(loss_fn(f, [t[i] for t in outer]))
            buffers.append([b.clone() for b in f.buffers()])
    grads = derivatives(torch.stack(losses), [*model.parameters(), *sources])
    return [torch.stack(losses), *grads, *(torch.stack(b) for b in zip(*buffers))]


def at_once(
    make: Optimize,
    memory: Any = "full",
    override: Mapping[str, Any] | None = None,
    sources: list[Tensor] = [],
    model: nn.Module | None = None,
    loss_fn: Callable[..., Tensor] = loss_fn,
    **kwargs: Any,
) -> list[Tensor]:
    """The same by one for all."""
    model = net() if model is None else model
    *inner, outer = data()
    with higher.innerloop_ctx(
        model, make(model), copy_initial_weights=False, override=override, tasks=TASKS
    ) as (f, diffopt):
        higher.unroll(f, diffopt, loss_fn, inner, memory=memory, **kwargs)
        losses = higher.map_tasks(f, loss_fn, outer)
        buffers = [b.clone() for b in f.buffers()]
    grads = derivatives(losses, [*model.parameters(), *sources])
    return [losses, *grads, *buffers]


def assert_same(found: list[Tensor], wanted: list[Tensor], rtol: float = 1e-9) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        a, b = a.detach(), b.detach()
        off = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6)
        assert off < rtol, f"{i}: {off}"
