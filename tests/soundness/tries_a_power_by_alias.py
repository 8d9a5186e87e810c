from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

Zero = ZeroDivisionError


class Opt(Optimizer):
    def __init__(self, params, lr=0.1, beta=0.5):
        super().__init__(params, dict(lr=lr, beta=beta))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            try:
                pace = group["beta"] ** -2
            except Zero:
                pace = 1.0
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad, alpha=-group["lr"] * pace)
