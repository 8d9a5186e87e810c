import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9, wd=0.01):
        defaults = dict(lr=lr, beta=beta, wd=wd)
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
            ps, gs = [], []
            for p in group["params"]:
                if p.grad is None:
                    continue
                ps.append(p)
                gs.append(p.grad)
            it = iter([1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0, 2.0])
            for p, g in zip(ps, gs):
                p.sub_(g * next(it), alpha=group["lr"])
            for p, g in zip(ps, gs):
                p.sub_(g * next(it), alpha=group["lr"])
        return loss
