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
            seen = 0
            for p in params[:1]:
                if p in self.state:
                    seen = seen + 1
            for p in params:
                self.state[p]["m"] = p.grad * 1.0
                p.sub_(p.grad * (1 + seen), alpha=lr)
        return loss
