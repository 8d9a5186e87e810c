import torch
from torch import nn
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        defaults = dict(lr=lr, beta=beta)
        super().__init__(params, defaults)
        self.k = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.k += 1
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                if len(state) == 0:
                    state["m"] = torch.zeros(4, 2, dtype=p.dtype)
                a, b = torch.vsplit(state["m"], (1,))
                b.add_(grad.sum())
                b[0].mul_(beta)
                p.sub_(grad + 0.01 * state["m"].sum() + 0.02 * b[0, 0], alpha=lr)
        return loss
