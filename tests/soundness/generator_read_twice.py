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
            gs = (p.grad for p in params)
            n = sum(g.norm() for g in gs)
            for p, g in zip(params, gs):
                p.sub_(g * n, alpha=lr)
            for p in params:
                p.mul_(0.9 + 0.001 * n)
        return loss
