import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for gi, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                p.add_(p.grad, alpha=-group["lr"] * (i + 1))
            for p in group["params"]:
                p.mul_(1 - 0.01 * i)
        self.k = gi
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - 0.01 * gi)
