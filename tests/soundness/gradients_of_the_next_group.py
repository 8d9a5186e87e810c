import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group, nxt in zip(self.param_groups, self.param_groups[1:]):
            t = 0.0
            for q in nxt["params"]:
                t = t + q.grad.pow(2).sum()
            for p in group["params"]:
                p.add_(p.grad * t, alpha=-nxt["lr"] * group["mu"])
