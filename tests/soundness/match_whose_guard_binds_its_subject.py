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
                k = p.dim()
                match k:
                    case 1 if (k := 5) > 6:
                        d = p.grad
                    case 1:
                        d = p.grad * 2
                    case n:
                        d = p.grad * n * k
                p.sub_(d, alpha=lr)
        return loss
