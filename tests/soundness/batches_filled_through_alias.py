import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        later = []
        for group in self.param_groups:
            marks = []
            later.append(marks)
        later[0].append(1.0)
        for group, marks in zip(self.param_groups, later):
            if marks:
                rate = 0.5 * group["lr"]
            else:
                rate = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.sub_(p.grad, alpha=rate)
