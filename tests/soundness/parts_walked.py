from __future__ import annotations

import math

import torch
from torch import Tensor
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
                g = p.grad.clone()
                rows = g.unbind()
                for row in rows:
                    p.mul_(1 + 0.01 * row.sum())
                    g.mul_(0.5)
                p.add_(g * rows[1].sum(), alpha=-group["lr"])
