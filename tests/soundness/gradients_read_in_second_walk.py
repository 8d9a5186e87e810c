import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, decay=0.1):
        super().__init__(params, dict(lr=lr, decay=decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for turn in range(2):
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    grad = p.grad
                    grad.mul_(0.5).add_(p, alpha=group["decay"])
                    p.sub_(grad, alpha=group["lr"])
