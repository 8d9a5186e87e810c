from functools import partial
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
        grads = []
        g = torch.zeros(1)
        for group in self.param_groups:
            for p in group["params"]:
                g = p.grad
                grads.append(g)
        n = sum(x.norm() for x in grads) + g.sum()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad / (1 + n), alpha=group["lr"])
        return loss
