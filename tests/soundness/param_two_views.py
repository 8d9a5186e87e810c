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
                flat = p.view(-1)
                lo = flat[:2]
                hi = flat[2:]
                lo.sub_(p.grad.flatten()[:2] * group["lr"])
                hi.sub_(p.grad.flatten()[2:] * group["lr"])
                flat.mul_(0.99)
