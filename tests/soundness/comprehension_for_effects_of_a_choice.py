from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


def halve(x, y, first):
    z = x if first else y
    z.mul_(0.5)
    return z.sum()


class Opt(Optimizer):
    """What a helper returns isn't needed, and it changes one of its arguments."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                [halve(p, p.grad, k == 0) for k in range(2)]
                p.sub_(p.grad, alpha=group["lr"])
