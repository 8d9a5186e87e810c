import torch
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            scale = 1.0
            for p in sorted(group["params"], key=lambda q: q.numel()):
                p.sub_(p.grad, alpha=group["lr"] * scale)
                scale = scale * 0.5
