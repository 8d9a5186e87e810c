import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, scale=None):
        super().__init__(params, dict(lr=lr, scale=scale))

    def factor(self, group):
        return 0.5 if isinstance(group["scale"], torch.Tensor) else 1.0

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            rate = group["lr"] * self.factor(group)
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad, alpha=-rate)
            if group["scale"] is None:
                group["scale"] = torch.full((), 0.5)
