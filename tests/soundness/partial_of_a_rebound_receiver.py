from functools import partial
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
                if not st:
                    st["a"], st["b"] = torch.zeros_like(p), torch.ones_like(p)
                m = st["a"]
                add = partial(m.add_, alpha=0.5)
                m = st["b"]
                add(p.grad)
                p.sub_(st["a"] + m * 0.1, alpha=lr)
        return loss
