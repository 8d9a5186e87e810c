"""A small problem of meta-learning, and its solution by hand on one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

import higher

LR, MOMENTUM = 0.1, 0.9
TASKS = 4


class Net(nn.Sequential):
    """Three inputs, two outputs, float64; the same weights whenever it is made."""

    def __init__(
        self, *, norm: bool = False, frozen: bool = False, width: int = 8
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            layers: list[nn.Module] = [nn.Linear(3, width), nn.Tanh()]
            layers += [nn.Linear(width, width), nn.Tanh()]
            layers += [nn.BatchNorm1d(width)] * norm
            super().__init__(*layers, nn.Linear(width, 2))
        self.double()
        self[2].weight.requires_grad_(not frozen)


def data(tasks: int = TASKS, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Inputs (tasks, 10, 3) and targets (tasks, 10, 2): five to adapt on, five to test."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, 10, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(tasks, 10, 2, generator=generator, dtype=torch.float64)
    return x, y


def own(tensors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """This rank's part of the tasks."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, y = (t.chunk(world)[rank] for t in tensors)
    return x, y


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=LR, momentum=MOMENTUM)


def mse(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


class Outer(nn.Module):
    """The module to wrap: its forward runs the inner loop on each task and returns the
    mean of the outer losses.

    Args:
        net: what is adapted.
        opt: makes the inner optimizer.
        learn: settings of it that are learned.
        steps: inner ones.
        unroll: arguments for ``higher.unroll``; None: a plain loop.
        together: whether all tasks are one inner loop, by ``tasks=``.
        context: further arguments for ``innerloop_ctx``.
    """

    def __init__(
        self,
        net: nn.Module,
        opt: Callable[[Any], torch.optim.Optimizer] = sgd,
        learn: tuple[str, ...] = ("lr", "momentum"),
        steps: int = 4,
        unroll: Mapping[str, Any] | None = None,
        together: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.opt, self.steps = net, opt, steps
        self.unroll, self.together = unroll, together
        self.context = {"copy_initial_weights": False, **(context or {})}
        self.settings = higher.optim.Settings(
            opt(net.parameters()), learn, dtype=torch.float64
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.gather()
        if self.together:
            return self.adapted(x, y, len(x)).mean()
        return torch.stack([self.adapted(*task) for task in zip(x, y)]).mean()

    def gather(self) -> None:
        """Weights of layers that are sharded by themselves."""

    def adapted(self, x: Tensor, y: Tensor, tasks: int | None = None) -> Tensor:
        """The outer loss of one task, or those of all."""
        support, query = ((x[..., part, :], y[..., part, :]) for part in HALVES)
        with higher.innerloop_ctx(
            self.net,
            self.opt(self.net.parameters()),
            override=self.settings,
            **self.context,
            **({} if tasks is None else {"tasks": tasks}),
        ) as (fnet, diffopt):
            if self.unroll is None:
                for _ in range(self.steps):
                    diffopt.step(losses(fnet, support))
            else:
                batches = [support] * self.steps
                higher.unroll(fnet, diffopt, mse, batches, **self.unroll)
            return losses(fnet, query)


HALVES = slice(0, 5), slice(5, 10)


def losses(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean square error over all but a leading dimension of tasks, if there is one."""
    return (model(batch[0]) - batch[1]).square().mean((-2, -1))


Gradients = dict[str, Tensor]


def by_hand(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    steps: int = 4,
    order: int = 2,
    truncate: int | None = None,
    weights: bool = True,
) -> tuple[Tensor, Gradients]:
    """Outer loss and its gradients, by ``functional_call`` and SGD written out.

    Args:
        net: is not changed.
        x: inputs of all tasks.
        y: their targets.
        steps: inner ones.
        order: 1: inner gradients are constants.
        truncate: what is before the last so many steps is a constant.
        weights: whether the initial weights get a gradient.
    """
    initial = {n: p for n, p in net.named_parameters() if p.requires_grad}
    lr = torch.tensor(LR, dtype=torch.float64, requires_grad=True)
    momentum = torch.tensor(MOMENTUM, dtype=torch.float64, requires_grad=True)
    losses = []
    for a, b in zip(x, y):
        params: Any = {n: p if weights else p.detach() for n, p in initial.items()}
        params = {n: p.clone().requires_grad_() for n, p in params.items()}
        buffers = {n: t.clone() for n, t in net.named_buffers()}
        moving: dict[str, Tensor] = {}
        for step in range(steps):
            if truncate is not None and step == steps - truncate:
                params = {n: p.detach().requires_grad_() for n, p in params.items()}
                moving = {n: v.detach() for n, v in moving.items()}
            loss = mse(_on(net, params, buffers), (a[:5], b[:5]))
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            if order == 1:
                grads = tuple(g.detach() for g in grads)
            for n, g in zip(params, grads):
                moving[n] = momentum * moving[n] + g if n in moving else g
                params[n] = params[n] - lr * moving[n]
        losses.append(mse(_on(net, params, buffers), (a[5:], b[5:])))
    outer = torch.stack(losses).mean()
    targets = {**initial, "lr": lr, "momentum": momentum}
    found = torch.autograd.grad(outer, list(targets.values()), allow_unused=True)
    zeros = (torch.zeros_like(t) for t in targets.values())
    values = (z if g is None else g for g, z in zip(found, zeros))
    return outer.detach(), dict(zip(targets, values))


def _on(net: nn.Module, *tensors: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    held = {name: t for part in tensors for name, t in part.items()}
    return lambda x: functional_call(net, held, (x,))


def gradients(outer: nn.Module) -> Gradients:
    """What backward left in the parameters, whole, by the names of :func:`by_hand`."""
    found = {}
    for name, p in outer.named_parameters():
        if p.requires_grad:
            name = name.removeprefix("module.").removeprefix("net.")
            name = name.removeprefix("settings.groups.0.")
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            found[name] = whole(grad)
    for name in {"lr", "momentum"} & found.keys():
        found[name] = found[name].reshape(())
    return found


def whole(t: Tensor) -> Tensor:
    return t.full_tensor() if isinstance(t, DTensor) else t


def assert_same(got: Gradients, wanted: Gradients, tolerance: float = 1e-10) -> None:
    assert got.keys() == wanted.keys()
    assert any(g.abs().max() > 1e-6 for g in wanted.values())
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)
