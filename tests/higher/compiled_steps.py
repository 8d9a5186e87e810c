"""An inner problem for tests of ``unroll(compile=True)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

import higher

STEPS, TASKS = 4, 3
Make = Callable[[nn.Module], torch.optim.Optimizer]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": dict(lr=0.05, amsgrad=True),
    "AdamW": dict(lr=0.05),
    "NAdam": dict(lr=0.05),
    "RAdam": dict(lr=0.05, betas=(0.9, 0.3)),
    "Adagrad": dict(lr=0.1),
    "Adadelta": dict(lr=1.0),
    "Adamax": dict(lr=0.05),
    "ASGD": dict(lr=0.1, lambd=0.1, t0=1),
    "RMSprop": dict(lr=0.01, centered=True, momentum=0.5),
    "Rprop": dict(lr=0.05),
    "Adafactor": dict(lr=0.1),
    "Muon": dict(lr=0.1),
}


def use_plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own kernels in the place of those that a C++ compiler makes."""
    usual = torch.compile

    def compile(function: Any, **kwargs: Any) -> Any:
        del kwargs["options"]
        return usual(function, backend="aot_eager", **kwargs)

    monkeypatch.setattr(torch, "compile", compile)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Linear(3, 6, bias=False),
        nn.BatchNorm1d(6, affine=False),
        nn.Tanh(),
        nn.Linear(6, 2, bias=False),
    ]
    return nn.Sequential(*layers).double()


def data(*tasks: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(STEPS + 1, *tasks, 5, n, generator=g).double() for n in (3, 2))
    return list(zip(x, y))


def loss_fn(f: Any, batch: Any) -> Tensor:
    return F.mse_loss(f(batch[0]), batch[1])


def optimizer(name: str) -> Make:
    return lambda m: getattr(torch.optim, name)(m.parameters(), **OPTIMIZERS[name])


def derivatives(
    make: Make,
    compile: bool,
    memory: Any = "full",
    model: nn.Module | None = None,
    loss_fn: Callable[..., Tensor] = loss_fn,
    sources: list[Tensor] = [],
    settings: bool = True,
    tasks: int | None = None,
    **kwargs: Any,
) -> list[Tensor]:
    """Losses, derivatives, weights, buffers and random state of one unroll."""
    model = net() if model is None else model
    *inner, outer = data() if tasks is None else data(tasks)
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    override = {"lr": [lr]} if settings else None
    torch.manual_seed(3)
    with higher.innerloop_ctx(
        model, make(model), copy_initial_weights=False, override=override, tasks=tasks
    ) as (f, diffopt):
        losses = higher.unroll(
            f, diffopt, loss_fn, inner, memory=memory, compile=compile, **kwargs
        )
        last = higher.map_tasks(f, loss_fn, outer) if tasks else loss_fn(f, outer)
        total = (last + losses[-2] if "truncate" not in kwargs else last).sum()
        history = [w for w in f.parameters(time=2)] if "truncate" not in kwargs else []
        buffers = [b.clone() for b in f.buffers()]
    by = [*model.parameters(), *sources, *([lr] if settings else [])]
    grads = torch.autograd.grad(total, by, allow_unused=True)
    return [
        *(t.detach() for t in [*losses, last, *history, *f.parameters()]),
        *(g for g in grads if g is not None),
        *[*buffers, torch.rand(2)],
    ]


def assert_same(found: list[Tensor], wanted: list[Tensor], rtol: float = 1e-10) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        off = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6)
        assert off < rtol, f"{i}: {off}"


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])
