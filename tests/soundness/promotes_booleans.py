import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            params = group["params"]
            for p in params:
                state = self.state[p]
                if len(state) == 0:
                    state["m"] = torch.zeros_like(p, dtype=torch.bfloat16)
                    state["n"] = torch.zeros(1)
                c = (p.grad > 0) * 0.3
                state["m"].mul_(beta).add_(c)
                state["n"].add_(p.grad.sum())
                p.sub_(state["m"].mul(state["n"]), alpha=lr)
        return loss
