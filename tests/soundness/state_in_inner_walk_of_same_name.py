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
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.mul_(group["beta"]).add_(p.grad)
        acc = 0.0
        for p in self.param_groups[0]["params"]:
            acc = acc + self.state[p]["m"].sum()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(self.state[p]["m"] + acc, alpha=group["lr"])
        return loss
