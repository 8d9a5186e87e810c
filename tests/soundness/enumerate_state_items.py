from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer


class Opt(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))
        for i, group in enumerate(self.param_groups):
            for j, p in enumerate(group["params"]):
                self.state[p] = dict(index=(i, j), m=torch.zeros_like(p))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                st = self.state[p]
                m = st["m"]
                if p.grad is not None:
                    m.add_(p.grad)
                m *= 0.9
                p.sub_(group["lr"] * m)
