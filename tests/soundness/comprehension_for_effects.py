from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    """A comprehension that is a statement: its calls change parameters."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    def _one(self, p, group):
        if p.grad is None:
            return
        p.sub_(p.grad, alpha=group["lr"])

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(0.9)
            [self._one(p, group) for p in group["params"]]
