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
                st = self.state[p]
                if "m" not in st:
                    st["m"] = torch.zeros_like(p)
                st["m"].mul_(group["beta"]).add_(p.grad)
        tot = 0.0
        for group in self.param_groups:
            tot = tot + sum(self.state[p]["m"].pow(2).sum() for p in group["params"])
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(self.state[p]["m"] / (1 + tot.sqrt()), alpha=group["lr"])
        return loss
