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
            group.setdefault("on", True)
            use = [p for p in params if group["on"]]
            group["on"] = not group["on"]
            for p in use:
                p.sub_(p.grad, alpha=lr)
            for p in params:
                p.mul_(0.99)
        return loss
