from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    """Two statements that are comprehensions, nested and with a condition, beside variables of their names."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    def _begin(self, p):
        st = self.state[p]
        if "m" not in st:
            st["m"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self):
        [
            self._begin(p)
            for g in self.param_groups
            for p in g["params"]
            if p.grad is not None
        ]
        for group in self.param_groups:
            scales = [0.5, 0.8]
            for p in group["params"]:
                if p.grad is None:
                    continue
                k = 3
                m = self.state[p]["m"]
                [m.mul_(k) for k in scales if k > 0.6]
                {m.add_(p.grad, alpha=k) for k in scales}
                p.sub_(m, alpha=group["lr"] / k)
