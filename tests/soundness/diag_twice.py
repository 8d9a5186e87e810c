import math
import functools
import itertools
import torch
import torch.nn.functional as F
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                L = torch.ones(3, 3, dtype=p.dtype) * p.grad.sum()
                d = L.diagonal()
                d.add_(0.5)
                d.mul_(3.0)
                p.sub_(p.grad * torch.sin(L).sum() * 0.1, alpha=group["lr"])
