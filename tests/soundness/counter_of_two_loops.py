import itertools
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
            c = itertools.count(1)
            for p, g in zip(ps, gs):
                p.sub_(g * next(c), alpha=0.2 * group["lr"])
            for p, g in zip(ps, gs):
                p.sub_(g * next(c), alpha=0.2 * group["lr"])
        return loss
