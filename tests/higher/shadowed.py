"""Momentum in place, and differentiable versions of it that are wrong in one way each."""

from __future__ import annotations

from typing import Any

import higher
import torch
from higher.optim import DifferentiableOptimizer, GroupedGrads
from torch import Tensor, nn


class Net(nn.Module):
    """Parameters of some shapes; the loss at time t is smooth and leaves none alone."""

    def __init__(self, shapes: Any = ((3, 5), (5,), (2, 2, 2)), dtype: Any = None):
        super().__init__()
        random = torch.Generator().manual_seed(1)
        for name, shape in zip("abcd", shapes):
            w = torch.randn(shape, generator=random, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(w.to(dtype or w.dtype)))

    def forward(self, t: Any = 0) -> Tensor:
        terms = [
            (p.double() - 0.1 * t - 0.3 * i).sin().square().sum()
            for i, p in enumerate(self.parameters())
        ]
        return torch.stack(terms).sum()


class Plain(torch.optim.Optimizer):
    """Momentum, for differentiable versions that are wrong in one way each."""

    def __init__(self, params: Any, lr: float = 0.1, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p))
                state["step"] += 1
                state["m"].mul_(group["beta"]).add_(p.grad)
                p.sub_(group["lr"] * state["m"])


class Right(DifferentiableOptimizer):
    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        for g, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
            for i, (p, grad) in enumerate(zip(group["params"], grads)):
                if grad is not None:
                    state = self.state[g][i]
                    if not state:
                        state.update(step=0, m=torch.zeros_like(p))
                    state["step"] += 1
                    group["params"][i] = self.one(p, grad, state, group)

    def one(
        self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> Tensor:
        state["m"] = state["m"] * group["beta"] + grad
        return p - group["lr"] * state["m"]


class WrongWeight(Right):
    """At the third step, and for vectors alone."""

    def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
        new = super().one(p, grad, state, group)
        return new + 1e-3 if p.dim() == 1 and state["step"] == 3 else new


class WrongState(Right):
    """Nesterov's momentum: the weight differs in the next step only."""

    def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
        new = super().one(p, grad, state, group)
        state["m"] = state["m"] * 0.5
        return new


class Writes(Right):
    def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
        state["m"].mul_(group["beta"]).add_(grad)
        return p - group["lr"] * state["m"]


class WritesInside(Right):
    """Into what its own backward needs."""

    def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
        size = grad.exp()
        size.mul_(0.0)
        return super().one(p, grad + size, state, group)


class DropsSetting(Right):
    def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
        beta = torch.as_tensor(group["beta"]).detach()
        return super().one(p, grad, state, {**group, "beta": beta})


class DropsGradient(Right):
    def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
        return super().one(p, grad.detach() if p.dim() == 1 else grad, state, group)


class Elsewhere(Right):
    """Right, but keeps its state by another name."""

    def one(self, p: Any, grad: Any, state: Any, group: Any) -> Tensor:
        held = {"m": state.pop("velocity", state.pop("m", None))}
        new = super().one(p, grad, held, group)
        state["velocity"] = held["m"]
        return new


def train(cls: type[Right], steps: int = 5, **told: Any) -> Any:
    """Registers ``cls`` for ``Plain`` and takes steps beside the original."""
    higher.register_optim(Plain, cls)
    net = Net()
    opt = Plain([{"params": [net.a]}, {"params": [net.b, net.c], "lr": 0.05}])
    with higher.innerloop_ctx(net, opt, check=True, **told) as (fmodel, diffopt):
        for t in range(steps):
            diffopt.step(fmodel(t))
    return diffopt
