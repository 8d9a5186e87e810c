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
            lr, beta, wd = group["lr"], group["beta"], group["wd"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad
                state = self.state[p]
                a = state.setdefault("a", torch.zeros_like(p))
                b = state.setdefault("b", torch.ones_like(p))
                h = state.setdefault("h", [])
                if h:
                    t = a
                else:
                    t = b
                h.append(1)
                if h:
                    t.add_(grad)
                p.sub_(a + 2 * b, alpha=lr)
        return loss
