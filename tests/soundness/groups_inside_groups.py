import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            total = 0.0
            for other in self.param_groups:
                for q in other["params"]:
                    if q.grad is not None:
                        total = total + (q.grad**2).sum()
            norm = total.sqrt() + 1e-3
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad / norm, alpha=-group["lr"])
