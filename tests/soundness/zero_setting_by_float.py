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
            for p in group["params"]:
                if p.grad is None:
                    continue
                if float(group["wd"]) != 0:
                    p.mul_(1 - 0.3 * group["wd"])
                p.add_(p.grad, alpha=-group["lr"])
