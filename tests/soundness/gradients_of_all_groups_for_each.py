import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad * 2
                n = sum(
                    (q.grad * q.grad).sum() * p.grad.sum()
                    for g in self.param_groups
                    for q in g["params"]
                )
                p.add_(grad + p.grad * n / (1 + n * n), alpha=-group["lr"])
