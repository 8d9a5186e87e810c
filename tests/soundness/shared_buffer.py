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
            scratch = torch.zeros(6, dtype=torch.float64)
            grads = [p.grad for p in params]
            outs = [scratch[: g.numel()].view_as(g) for g in grads]
            for o, g in zip(outs, grads):
                o.copy_(g)
            for p, o in zip(params, outs):
                p.sub_(lr * o)
        return loss
