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
                    state["b"] = torch.zeros(p.numel(), 3, dtype=p.dtype)
                b = state["b"]
                m = b[:, 0:2]
                m.add_(p.grad.reshape(-1, 1))
                k = 1 if m.is_contiguous() else 2
                p.sub_(m[:, 0].reshape(p.shape), alpha=lr * k)
        return loss
