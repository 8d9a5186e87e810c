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
            gs = [p.grad * (i + 1) for i, p in enumerate(params)]
            i = 3
            for p, g in zip(params, gs):
                p.sub_(g * i, alpha=0.3 * lr)
        return loss
