import torch
from torch.optim import Optimizer

from dataclasses import dataclass


@dataclass
class Slots:
    m: torch.Tensor
    v: torch.Tensor
    step: int = 0


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        defaults = dict(lr=lr, beta=beta)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if "s" not in state:
                    state["s"] = Slots(torch.zeros_like(p), torch.zeros_like(p))
                s = state["s"]
                s.step += 1
                s.m.mul_(group["beta"]).add_(grad, alpha=1 - group["beta"])
                s.v.mul_(0.99).addcmul_(grad, grad, value=0.01)
                p.addcdiv_(s.m, s.v.sqrt().add_(1e-3), value=-group["lr"])
        return loss
