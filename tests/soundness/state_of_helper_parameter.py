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

            def norm_of(p):
                return self.state[p]["m"].norm()

            for p in params:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(beta).add_(p.grad)
            acc = norm_of(params[0])
            for p in params:
                p.sub_(self.state[p]["m"] * acc, alpha=lr)
        return loss
