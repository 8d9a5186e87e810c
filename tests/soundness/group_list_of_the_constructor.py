import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))
        for g in self.param_groups:
            g["a"] = [
                torch.zeros((), dtype=torch.float64),
                torch.zeros((), dtype=torch.float64),
            ]

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["a"][0].add_(1)
            x = group["a"][1]
            x.add_(0.5)
            for i, p in enumerate(group["params"]):
                p.add_(p.grad / (1 + group["a"][0] + group["a"][1]), alpha=-group["lr"])
