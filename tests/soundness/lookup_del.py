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
            for p in params:
                st = self.state[p]
                if "m" not in st:
                    st["m"] = torch.zeros_like(p)
            ms = [self.state[p]["m"] for p in params]
            tot = sum(m.abs().sum() for m in ms)
            for p in params:
                del self.state[p]["m"]
            tot2 = sum(p.abs().sum() for p in params)
            for p, m in zip(params, ms):
                m.add_(p.grad)
                self.state[p]["m"] = m
                p.sub_(0.1 * lr * (m + 0.1 * p.grad * tot2 + tot))
        return loss
