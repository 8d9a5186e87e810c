import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            params = group["params"]
            for p in params:
                acc = torch.zeros_like(p, dtype=torch.bfloat16)
                x = p.grad
                for i in range(3):
                    acc.add_(x)
                    x = acc
                p.sub_(acc, alpha=lr)
        return loss
