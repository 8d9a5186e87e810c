import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))
        t = torch.zeros((), dtype=torch.float64)
        for g in self.param_groups:
            for p in g["params"]:
                self.state[p]["t"] = t

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                st = self.state[p]
                st["t"].add_(1)
                p.add_(p.grad / st["t"], alpha=-group["lr"])
