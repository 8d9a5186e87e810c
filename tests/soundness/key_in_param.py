import math
import functools
import itertools
import torch
import torch.nn.functional as F
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr, pos=0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                row = p[group["pos"] % p.shape[0]]
                row.mul_(0.9)
                group["pos"] += 1
                row.sub_(p.grad[0] * group["lr"])
                p.sub_(p.grad, alpha=group["lr"])
