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
                st = self.state[p]
                m = st.setdefault("m", torch.ones_like(p))
                x = m
                c = torch.empty_like(x)
                torch.mul(x, beta, out=c)
                x, c = c, x
                m.add_(p.grad)
                p.sub_(x, alpha=lr)
        return loss
