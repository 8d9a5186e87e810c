from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, wd=0.0):
        super().__init__(params, dict(lr=lr, wd=wd))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            wd = group["wd"] or 0.0
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad.add(p, alpha=group["wd"] or 0)
                if wd != 0:
                    p.mul_(1 - 0.1 * wd)
                p.add_(grad, alpha=-group["lr"])
