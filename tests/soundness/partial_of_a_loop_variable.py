from functools import partial
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
                for i, q in enumerate((p.grad, p)):
                    if i == 0:
                        f = partial(q.mul, 2.0)
                p.sub_(f(), alpha=lr)
        return loss
