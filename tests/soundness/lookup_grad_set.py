import torch
from torch.optim import Optimizer


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
            params = [p for p in group["params"] if p.grad is not None]
            gs = [p.grad for p in params]
            tot = sum(g.abs().sum() for g in gs)
            for p in params:
                p.grad = p.grad * 2
            tot2 = sum(p.abs().sum() for p in params)
            for p, g in zip(params, gs):
                p.sub_(0.1 * lr * g * (tot2 + tot) * 0.1)
        return loss
