import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, mu=0.9, wd=0.01):
        super().__init__(params, dict(lr=lr, mu=mu, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if "a" not in group:
                buf = torch.zeros_like(group["params"][0])
                group["a"] = buf
                group["b"] = buf
            group["a"].add_(1.0)
            for p in group["params"]:
                p.add_(p.grad * group["b"].sum(), alpha=-group["lr"])
