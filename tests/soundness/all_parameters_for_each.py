import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                w = 0.0
                for other in self.param_groups:
                    for j, q in enumerate(other["params"]):
                        w = w + (j + 1) * (q * q).sum()
                p.add_(p.grad / (1 + w), alpha=-group["lr"] * (i + 1))
