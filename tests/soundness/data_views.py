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
                d = p.data
                w = d.view(-1)
                g = p.grad.view(-1)
                w[1:].sub_(g[1:] * group["lr"])
                w[:1].sub_(g[:1] * group["lr"] * 2)
                d.add_(w.sum() * 0.01)
