import torch
from torch.optim import Optimizer


def fact(n):
    return 1 if n < 2 else n * fact(n - 1)


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        defaults = dict(lr=lr, beta=beta)
        super().__init__(params, defaults)
        self.k = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.k += 1
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                p.sub_(grad * fact(3), alpha=lr * 0.1)
        return loss
