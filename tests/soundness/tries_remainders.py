from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr, calls=0, every=2))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["calls"] += 1
            try:
                rare = group["calls"] % 2 == 0
                pace = 0.9 ** group["calls"]
                raise ValueError
            except ValueError:
                rare = not rare
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.add_(p.grad, alpha=-group["lr"] * pace * (0.5 if rare else 1.0))
