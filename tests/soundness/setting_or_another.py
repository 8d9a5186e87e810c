from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, other=0.0):
        super().__init__(params, dict(lr=lr, other=other))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            other = group["other"] or 0.3
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad, alpha=-group["lr"] * other)
