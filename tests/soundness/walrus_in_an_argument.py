import torch
from torch.optim import Optimizer


def f_(x, y, z):
    x.add_(y)
    return x + z


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
                g = p.grad
                d = f_(g, g * 2, g.mean())
                e = f_(g, p, (g := g * 0.5).sum())
                p.sub_(d + e + g, alpha=0.1 * lr)
        return loss
