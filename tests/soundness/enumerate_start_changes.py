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
            group["n"] = group.get("n", 1)
            for i, p in enumerate(params, group["n"]):
                group["n"] = group["n"] + 1
                p.sub_(p.grad * lr / i)
        return loss
