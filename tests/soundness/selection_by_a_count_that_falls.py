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
        self.left = 1
        for group in self.param_groups:
            for p in [q for q in group["params"] if self.left > 0]:
                self.left -= 1
                p.sub_(p.grad, alpha=group["lr"])
        return loss
