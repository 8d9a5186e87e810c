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
                flat.sub_(p.grad.view(-1), alpha=group["lr"])
                flat[0] = 0.5 * flat[1]
                flat.clamp_(-2, 2)
                p.mul_(0.98)
                flat[1:].add_(0.01)
