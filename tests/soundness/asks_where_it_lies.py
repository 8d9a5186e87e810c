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
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["m"] = torch.zeros(tuple(reversed(p.shape)), dtype=p.dtype)
                m = state["m"]
                m.copy_(p.grad.T)
                flat = torch.as_strided(m, (m.numel(),), (1,))
                w = torch.arange(1.0, m.numel() + 1, dtype=p.dtype)
                p.sub_((flat * w).view(m.shape).T, alpha=lr)
        return loss
