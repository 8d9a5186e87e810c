from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr, k=2))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad.clone()
                halves = g.view(-1).chunk(2)
                rows = g.unbind()
                halves[0].mul_(0.5)
                rows[1].add_(halves[1].sum())
                p.add_(g * rows[0].sum() + halves[0].sum(), alpha=-group["lr"])
