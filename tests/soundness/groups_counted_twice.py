import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for i in range(len(self.param_groups)):
            group = self.param_groups[i]
            t = 0.0
            for j in range(len(self.param_groups)):
                t = t + self.param_groups[j]["lr"] * (j + 1)
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad, alpha=-t)
